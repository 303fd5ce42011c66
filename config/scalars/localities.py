"""Where pods are, by the topology labels of their nodes."""

import re
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.names import LABEL_VALUE
from config.scalars.refused import Refused
from config.scalars.texts import matching


def _region(value: str) -> str:
    region = value.split("/")[0]
    if re.fullmatch(LABEL_VALUE, value):
        return value
    raise Refused(
        f"{value!r} is not a region",
        "failover goes from region to region, by the nodes' label topology.kubernetes.io/region; "
        "zones of one region stand in for each other by themselves",
        f"write {region}" if re.fullmatch(LABEL_VALUE, region) else "write such as oslo",
    )


Locality = Annotated[
    str,
    matching(
        rf"\*|{LABEL_VALUE}(/{LABEL_VALUE}){{0,2}}|{LABEL_VALUE}(/{LABEL_VALUE})?/\*",
        "a locality",
        "it is region, region/zone or region/zone/subzone, by the labels topology.kubernetes.io/"
        "region and zone of the nodes; * at the end stands for all",
        "write such as no-oslo, no-oslo/a or no-oslo/*",
    ),
]
Region = Annotated[str, AfterValidator(_region)]
