"""The countries of the European Economic Area."""

# fmt: off
EEA = frozenset((
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE",
    "IS", "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
))
# fmt: on
"""The 27 member states of the EU, and Iceland, Liechtenstein and Norway, by ISO 3166."""
