"""The names of the annotations that explain the purpose of an object."""

PREFIX = "nordmesh.io/"

OWNER = f"{PREFIX}owner"
PURPOSE = f"{PREFIX}purpose"
LEGAL_BASIS = f"{PREFIX}legal-basis"
COUNTRY = f"{PREFIX}country"
TRANSFER_BASIS = f"{PREFIX}transfer-basis"
WILDCARD_REASON = f"{PREFIX}wildcard-reason"
