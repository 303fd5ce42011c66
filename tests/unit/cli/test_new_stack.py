"""`nordmesh new`: a stack file from answers, with host keys that the user has confirmed."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncssh
import jsonschema_rs
import pytest
import yaml

from cli import host_keys, new
from cli.new_file import render
from config import EXAMPLE_HOST_KEY, StackConfig, schema
from config.errors import NordmeshError
from config.load import load as load_stack
from lab.ports import reserved_port
from tests.unit.commands import nordmesh
from tests.unit.conftest import HOST_KEYS, SSH_KEY

FINGERPRINT = host_keys.fingerprint(HOST_KEYS[0])
CONTROL = f"cp-1,role=control-plane,address=192.0.2.11,hostKey={HOST_KEYS[0]}"
WORKER = f"worker-1,role=worker,address=192.0.2.21,user=debian,port=2222,hostKey={HOST_KEYS[1]}"


def answers(*lines: str) -> Any:
    """Answer prompts with these lines, then end the input."""
    typed = iter(lines)

    def ask(question: str) -> str:
        print(question)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    return ask


def no_prompt(question: str) -> str:
    raise AssertionError(f"unexpected prompt: {question}")


@pytest.fixture
def scanned_keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Host keys that a scan returns, by address."""
    keys = {"192.0.2.11": HOST_KEYS[0], "192.0.2.21": HOST_KEYS[1]}

    def scan(address: str, port: int) -> str:
        if address not in keys:
            raise NordmeshError(f"no SSH server at {address} port {port}", code="no-host-key")
        return keys[address]

    monkeypatch.setattr(host_keys, "scan", scan)
    return keys


def loaded(project: Path, stack: str) -> StackConfig:
    """Load the stack file that the command wrote, with an SSH key."""
    document = yaml.safe_load((project / f"Pulumi.{stack}.yaml").read_text())
    jsonschema_rs.validate(schema.schema(), document)
    values = {key.removeprefix("nordmesh:"): value for key, value in document["config"].items()}
    return load_stack({**values, "sshPrivateKey": SSH_KEY}, project_dir=project)


def test_nodes_are_read_from_options(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dev", "--node", CONTROL, "--node", WORKER]
    assert nordmesh(project, "new", *arguments, ask=no_prompt) == 0
    config = loaded(project, "dev")
    assert config.kubernetes.cluster_name == "dev"
    assert config.kubernetes.endpoint == "api.dev.internal"
    assert config.mesh.network_policy
    assert [name for name, _ in config.machines.control_planes] == ["cp-1"]
    login = config.machines.login(config.machines.nodes["worker-1"])
    assert (login.user, login.port) == ("debian", 2222)
    text = (project / "Pulumi.dev.yaml").read_text()
    assert text.count("user: debian") == 1
    assert text.splitlines()[0] == schema.MODELINE
    out = capsys.readouterr().out
    assert "pulumi stack init dev" in out
    assert "config set --stack dev --secret nordmesh:sshPrivateKey" in out


@pytest.mark.usefixtures("scanned_keys")
def test_nodes_are_read_from_prompts(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = answers(
        *("Dev!", "dev", ""),  # an invalid name is asked for again
        *("", "", "192.0.2.11", "", "", "yes"),
        *("worker-1", "", "worker.example", "192.0.2.21", "debian", "2222"),
        *(host_keys.fingerprint(HOST_KEYS[1]), ""),
    )
    assert nordmesh(project, "new", ask=ask) == 0
    out = capsys.readouterr().out
    assert "'Dev!' is not a DNS label" in out
    assert "'worker.example' is not an IP address" in out
    assert f"ssh-ed25519 {FINGERPRINT}" in out
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in out
    config = loaded(project, "dev")
    assert set(config.machines.nodes) == {"cp-1", "worker-1"}
    node = config.machines.nodes["worker-1"]
    assert node.provider == "existing"
    assert (node.host_key, node.user, node.port) == (HOST_KEYS[1], "debian", 2222)


@pytest.mark.usefixtures("scanned_keys")
def test_a_node_with_an_unconfirmed_host_key_is_left_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = answers(
        *("cp-1", "", "192.0.2.11", "", "", "no"),
        *("cp-1", "", "192.0.2.99", "", ""),
        *("cp-1", "", "192.0.2.11", "", "", FINGERPRINT, ""),
    )
    arguments = ["dev", "--endpoint", "api.example.internal"]
    assert nordmesh(project, "new", *arguments, ask=ask) == 0
    out = capsys.readouterr().out
    assert "cp-1 [host-key-unconfirmed]" in out
    assert "no SSH server at 192.0.2.99 port 22" in out
    assert loaded(project, "dev").kubernetes.endpoint == "api.example.internal"


@pytest.mark.usefixtures("scanned_keys")
def test_a_fingerprint_option_confirms_the_host_key(project: Path) -> None:
    node = f"cp-1,role=control-plane,address=192.0.2.11,fingerprint={FINGERPRINT}"
    assert nordmesh(project, "new", "dev", "--node", node, ask=no_prompt) == 0
    node_read = loaded(project, "dev").machines.nodes["cp-1"]
    assert node_read.provider == "existing"
    assert node_read.host_key == HOST_KEYS[0]


BASTION = f"192.0.2.11,user=jump,port=443,fingerprint={FINGERPRINT}"


def bastion_of(config: StackConfig, name: str) -> Any:
    return config.machines.login(config.machines.nodes[name]).bastion


@pytest.mark.usefixtures("scanned_keys")
def test_a_bastion_is_read_from_an_option(project: Path) -> None:
    arguments = ["dev", "--bastion", BASTION, "--node", CONTROL, "--node", WORKER]
    assert nordmesh(project, "new", *arguments, ask=no_prompt) == 0
    bastion = bastion_of(loaded(project, "dev"), "worker-1")
    assert (bastion.address, bastion.user, bastion.port) == ("192.0.2.11", "jump", 443)
    assert bastion.host_key == HOST_KEYS[0]


@pytest.mark.usefixtures("scanned_keys")
def test_host_keys_behind_a_bastion_are_pasted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = answers(
        "", "", "", "10.0.0.11", "", "", "SHA256:nothing", f"{HOST_KEYS[1]} root@cp-1", ""
    )
    assert nordmesh(project, "new", "dev", "--bastion", BASTION, ask=ask) == 0
    assert "cat /etc/ssh/ssh_host_ed25519_key.pub" in capsys.readouterr().out
    node_read = loaded(project, "dev").machines.nodes["cp-1"]
    assert node_read.provider == "existing"
    assert node_read.host_key == HOST_KEYS[1]


@pytest.mark.usefixtures("scanned_keys")
@pytest.mark.parametrize(
    ("bastion", "nodes", "message"),
    [
        (BASTION.replace("fingerprint", "print"), CONTROL, "there is no setting print"),
        (BASTION.replace(FINGERPRINT, "SHA256:other"), CONTROL, "not SHA256:other"),
        (BASTION, "cp-1,role=control-plane,address=10.0.0.11", "cannot be fetched from here"),
    ],
)
def test_an_invalid_bastion_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], bastion: str, nodes: str, message: str
) -> None:
    arguments = ["dev", "--bastion", bastion, "--node", nodes]
    assert nordmesh(project, "new", *arguments, ask=no_prompt) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (project / "Pulumi.dev.yaml").exists()


SCANNED = "cp-1,role=control-plane,address=192.0.2.11"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([SCANNED], "which nobody has compared yet"),
        ([f"{SCANNED},fingerprint=SHA256:wrong"], "not SHA256:wrong"),
        (["cp-1,role=worker"], "address is missing"),
        ([f"{CONTROL},prot=22"], "there is no setting prot"),
        ([f"{CONTROL},port=0"], "0 is not a port"),
        ([f"{CONTROL},user=a b"], "Linux user name"),
        ([CONTROL.replace("192.0.2.11", "127.0.0.1")], "not the address of a machine"),
        ([CONTROL.replace("control-plane", "boss")], "'control-plane' or 'worker'"),
        ([CONTROL.replace("cp-1", "CP_1")], "use cp-1"),
        ([CONTROL.replace("ssh-ed25519", "ssh-foo")], "does not begin with a host key type"),
        ([CONTROL, CONTROL], "two nodes have the name cp-1"),
        ([WORKER], "no node is a control plane"),
        ([CONTROL, WORKER.replace("192.0.2.21", "192.0.2.11")], "[node-address-duplicate]"),
        (["cp-1,role=control-plane,address=192.0.2.99,fingerprint=x"], "no SSH server"),
    ],
)
@pytest.mark.usefixtures("scanned_keys")
def test_invalid_nodes_write_no_file(
    project: Path, nodes: Iterable[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(project.iterdir())
    arguments = ["dev", *(argument for node in nodes for argument in ("--node", node))]
    assert nordmesh(project, "new", *arguments, ask=no_prompt) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert error.endswith("nothing was written")
    assert sorted(project.iterdir()) == before


def test_an_existing_file_is_never_overwritten(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "Pulumi.dev.yaml"
    path.write_text("mine")
    assert nordmesh(project, "new", "dev", "--node", CONTROL, ask=no_prompt) == 1
    assert "Pulumi.dev.yaml [stack-file-exists]" in capsys.readouterr().err
    with pytest.raises(NordmeshError, match="stack-file-exists"):
        new.write(project, "dev", "api.dev.internal", [new.given_node(CONTROL)])
    assert path.read_text() == "mine"


@pytest.mark.parametrize("arguments", [["--node", CONTROL], ["Dev", "--node", CONTROL]])
def test_a_stack_needs_a_valid_name(project: Path, arguments: list[str]) -> None:
    assert nordmesh(project, "new", *arguments, ask=no_prompt) == 1


def test_end_of_input_writes_no_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nordmesh(project, "new", "dev", ask=answers("")) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not (project / "Pulumi.dev.yaml").exists()


def test_every_commented_setting_shows_its_default(project: Path) -> None:
    """Uncommented, the file loads to the same stack: each commented value is the default."""
    nodes = {"cp-1": new.given_node(CONTROL).entry()}
    text = render(
        "dev",
        {
            "machines": {"nodes": nodes},
            "kubernetes": {"clusterName": "dev", "endpoint": "api.dev.internal"},
            "istio": {},
        },
    )
    lines = [line for line in text.splitlines() if not line.strip().startswith("# ")]
    config = yaml.safe_load("\n".join(line.replace("#", "", 1) for line in lines))["config"]
    values = {key.removeprefix("nordmesh:"): value for key, value in config.items()}
    # A section that has no value without a key of yours is not shown.
    unset = {"access", "backup", "storage"}
    assert set(values) == set(StackConfig.model_fields) - unset
    for name in unset:
        assert f"# nordmesh:{name} (not set): " in text
    uncommented = load_stack({**values, "sshPrivateKey": SSH_KEY}, project_dir=project)
    plain = yaml.safe_load(text)["config"]
    short = {key.removeprefix("nordmesh:"): value for key, value in plain.items()}
    assert uncommented == load_stack({**short, "sshPrivateKey": SSH_KEY}, project_dir=project)
    assert max(map(len, text.splitlines())) <= 110


def test_fingerprints_have_the_format_of_ssh_keygen() -> None:
    assert host_keys.fingerprint(EXAMPLE_HOST_KEY).startswith("SHA256:")
    assert len(host_keys.fingerprint(EXAMPLE_HOST_KEY)) == len("SHA256:") + 43


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"], "ssh-ed25519"),
        (["ssh-rsa", "ecdsa-sha2-nistp384"], "ecdsa-sha2-nistp384"),
        (["ssh-rsa"], "ssh-rsa"),
    ],
)
def test_a_scan_prefers_ed25519_to_ecdsa_to_rsa(
    types: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {kind: asyncssh.generate_private_key(kind) for kind in types}

    monkeypatch.setattr(host_keys, "_SECONDS", 120)

    async def scan() -> str:
        server = await asyncssh.listen("127.0.0.1", 0, server_host_keys=list(keys.values()))
        try:
            return await asyncio.to_thread(host_keys.scan, "127.0.0.1", server.get_port())
        finally:
            server.close()

    key = keys[expected].convert_to_public()
    assert asyncio.run(scan()) == key.export_public_key().decode().strip()
    assert host_keys.fingerprint(key.export_public_key().decode()) == key.get_fingerprint()


def test_a_machine_with_an_rsa_key_only_gets_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    key = asyncssh.generate_private_key("ssh-rsa").export_public_key().decode().strip()
    monkeypatch.setattr(host_keys, "scan", lambda *_: key)
    with pytest.raises(NordmeshError) as caught:
        new.given_node("cp-1,role=control-plane,address=192.0.2.11")
    assert "RSA host key" in str(caught.value)
    assert "ssh-keygen -A" in caught.value.fix


def test_a_server_without_ssh_has_no_host_key() -> None:
    with reserved_port() as closed, pytest.raises(NordmeshError) as caught:
        host_keys.scan("127.0.0.1", closed)
    assert caught.value.code == "no-host-key"
