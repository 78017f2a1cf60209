"""What a job family is: frozen models, rules, errors, ports. No clock, no I/O, no framework but pydantic.

Touch this room when a rule of the product changes, not when a technique does.
"""
