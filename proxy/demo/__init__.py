"""The whole crossing on embedded clusters: `crossfade demo`."""
