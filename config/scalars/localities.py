"""The locality of pods, from the topology labels of their nodes."""

import re
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.names import LABEL_VALUE
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import matching


@shaped(text(LABEL_VALUE))
def _region(value: str) -> str:
    region = value.split("/")[0]
    if re.fullmatch(LABEL_VALUE, value):
        return value
    raise Refused(
        "region-format",
        f"{value!r} is not a region",
        "failover moves requests between regions, which are the nodes' label "
        "topology.kubernetes.io/region; zones of one region replace each other "
        "automatically",
        f"use {region}" if re.fullmatch(LABEL_VALUE, region) else "use a region such as oslo",
    )


Locality = Annotated[
    str,
    matching(
        "locality-format",
        rf"\*|{LABEL_VALUE}(/{LABEL_VALUE}){{0,2}}|{LABEL_VALUE}(/{LABEL_VALUE})?/\*",
        "a locality",
        "a locality is region, region/zone or region/zone/subzone, from the nodes' labels "
        "topology.kubernetes.io/region and zone; a * at the end matches all",
        "use a value such as no-oslo, no-oslo/a or no-oslo/*",
    ),
]
Region = Annotated[str, AfterValidator(_region)]
Zone = Annotated[
    str,
    matching(
        "zone-format",
        LABEL_VALUE,
        "a zone",
        "it becomes the node's label topology.kubernetes.io/zone, whose value has at most 63 "
        "letters, digits, '-', '_' and '.'",
        "use the zone alone, for example oslo-1, and set its region with the key region",
    ),
]
