"""The manifests of metrics-server against their golden file, and its image in the lab."""

import yaml

from components.manifests.metrics_server import metrics_api, metrics_server
from config import catalogue
from lab import images
from tests.support.golden import check
from tests.support.mocked import config, run


def test_manifests_match_their_golden_file() -> None:
    documents = [*metrics_server(image=catalogue.METRICS_SERVER_IMAGE), metrics_api()]
    check("metrics-server.yaml", yaml.safe_dump_all(documents, sort_keys=False))


def test_the_platform_deploys_it_with_an_image_that_the_lab_has() -> None:
    recorder, _ = run(config())
    (container,) = recorder.inputs("apps/v1:Deployment", "kube-system/metrics-server")["spec"][
        "template"
    ]["spec"]["containers"]
    assert container["image"] in {image.reference for image in images.ALL}
    assert recorder.names(":APIService") == ["v1beta1.metrics.k8s.io"]
