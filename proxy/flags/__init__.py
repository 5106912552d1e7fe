"""The percentage and the switch from a flag provider instead of the file.

values     pure: what a flag's value means, and a configuration with such values in it
providers  LaunchDarkly and flagd through OpenFeature (the extra `flags`), and the environment
watch      asks again and again; what cannot be had keeps its last value

Rule: a flag is a line of the file that stands elsewhere. Its value when the process starts
is a wish; a *change* while we watch is an order.
"""
