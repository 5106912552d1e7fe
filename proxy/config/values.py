"""The kinds of values a file may hold, and what every section of it has in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    StrictInt,
    ValidationInfo,
)

from proxy.config import units
from proxy.config.dsn import Address, Dsn


class CaptureForm(StrEnum):
    """How changes of a table are written to the ledger (DESIGN, section 3)."""

    STATEMENT = "statement"
    TRIGGER = "trigger"
    SPLIT = "split"

    @property
    def on_cluster(self) -> str:
        """The form as the clusters know it: to them, split is a way to write a statement."""
        return CaptureForm.TRIGGER.value if self is CaptureForm.TRIGGER else CaptureForm.STATEMENT.value


FROM_FILE = "from_file"
"""Key of the validation context that demands units."""

NOT_IN_FILE = "<not in file>"
"""Alias of attributes that no file may set."""


def _must_carry_unit(value: object, info: ValidationInfo, example: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be written like {example}")
    if info.context and info.context.get(FROM_FILE):
        raise ValueError(f"{value} carries no unit: write it like {example}")


def _seconds(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return units.seconds(value)
    _must_carry_unit(value, info, "10s")
    return value


def _ratio(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return units.ratio(value)
    _must_carry_unit(value, info, "5%")
    return value


def _bytes(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return units.size_bytes(value)
    _must_carry_unit(value, info, "64MB")
    return value


def _dsn(value: object) -> object:
    if isinstance(value, str):
        return Dsn.parse(value)
    if isinstance(value, Dsn):
        return value
    raise ValueError("must be a connection URL")


def _address(value: object) -> object:
    if isinstance(value, str):
        return Address.parse(value)
    if isinstance(value, Address):
        return value
    raise ValueError("must be an address, such as 127.0.0.1:6432")


Seconds = Annotated[float, Field(ge=0), BeforeValidator(_seconds)]
# A wait of nothing is no wait but a failure each time; such values are refused.
SomeSeconds = Annotated[float, Field(gt=0), BeforeValidator(_seconds)]
Ratio = Annotated[float, Field(ge=0, le=1), BeforeValidator(_ratio)]
Bytes = Annotated[int, Field(gt=0), BeforeValidator(_bytes)]
Count = Annotated[StrictInt, Field(ge=1)]
AnyDsn = Annotated[InstanceOf[Dsn], BeforeValidator(_dsn)]
AnyAddress = Annotated[InstanceOf[Address], BeforeValidator(_address)]
Name = Annotated[str, Field(min_length=1, max_length=63)]


class Section(BaseModel):
    """A mapping of the file: frozen, and nothing in it is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_default=False)
