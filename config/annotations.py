"""The names of the annotations that explain the purpose of an object."""

_PREFIX = "nordmesh.io/"

OWNER = f"{_PREFIX}owner"
PURPOSE = f"{_PREFIX}purpose"
LEGAL_BASIS = f"{_PREFIX}legal-basis"
COUNTRY = f"{_PREFIX}country"
TRANSFER_BASIS = f"{_PREFIX}transfer-basis"
WILDCARD_REASON = f"{_PREFIX}wildcard-reason"
