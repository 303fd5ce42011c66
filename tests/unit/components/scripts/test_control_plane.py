"""Changes of a running control plane: its static pods, and the keys that encrypt Secrets."""

import base64
import re
from pathlib import Path

import pytest

from components.encryption_keys import RETIRE, USE
from components.manifests import oidc
from tests.unit import node
from tests.unit.machine import Machine, Result

ENCRYPTION = "/etc/kubernetes/pki/encryption.yaml"
OIDC_CA = oidc.CA_FILE
MANIFESTS, MADE = "/etc/kubernetes/manifests", "/etc/kubernetes/nordmesh-made"
BEFORE = "/etc/kubernetes/nordmesh-before"
PLANTED = "hunter2-of-a-secret"
NEW_KEY = base64.b64encode(b"of-another-control-plane-key2-12").decode()


@pytest.fixture
def new(machine: Machine) -> Machine:
    """A control plane that this release has created."""
    node.future_control_plane(machine)
    _with_real_keys(machine)
    assert node.init(machine, CLUSTER_CONFIG=node.HARDENED).status == 0
    machine.path("/calls").unlink()
    return machine


@pytest.fixture
def earlier(machine: Machine) -> Machine:
    """A control plane without encryption, of an earlier release."""
    node.of_earlier_release(machine)
    _with_real_keys(machine)
    return machine


def _with_real_keys(machine: Machine) -> None:
    """Make random keys, as on a real machine; and do not wait."""
    machine.path("/commands/head").unlink()
    machine.skip_waits()


def keys(machine: Machine) -> dict[str, str]:
    """The keys in the file by name, in order."""
    found = re.findall(r"- name: (\S+)\n +secret: (\S+)", machine.read(ENCRYPTION))
    return dict(found)


def used(machine: Machine) -> list[str]:
    """The keys of each API server that started, and where Secrets were written again."""
    return machine.read("/keys").splitlines() if machine.exists("/keys") else []


def others(machine: Machine, *keys: str) -> None:
    """Set what the API servers of other control planes show: their keys in order."""
    lines = (f"cp-{number} settings 0, keys {one}\n" for number, one in enumerate(keys, 2))
    machine.write("/planes", "".join(lines))


def pods(machine: Machine, folder: str = MANIFESTS) -> dict[str, str]:
    return {pod: machine.read(f"{folder}/{pod}.yaml") for pod in node.PODS}


def everything(machine: Machine) -> str:
    """What a run shows and leaves: every file, and every argument of a command."""
    files = machine.path("/etc").rglob("*"), machine.path("/var").rglob("*")
    logs = [*machine.path("/run").rglob("*"), machine.path("/calls")]
    paths = [path for group in (*files, logs) for path in group if path.is_file()]
    return "".join(path.read_text(errors="replace") for path in paths)


def refused(result: Result, code: str) -> None:
    assert result.status == 1
    assert f"[{code}]" in result.stderr


def test_a_new_cluster_encrypts_from_its_first_secret(new: Machine) -> None:
    assert list(keys(new)) == ["key1"]
    assert len(base64.b64decode(keys(new)["key1"])) == 32
    assert "identity" not in new.read(ENCRYPTION)
    assert new.path(ENCRYPTION).stat().st_mode & 0o777 == 0o600
    assert new.path("/var/log/kubernetes/audit").stat().st_mode & 0o777 == 0o700


def test_a_second_run_restarts_nothing(new: Machine) -> None:
    before = pods(new)
    result = node.rotate(new)
    assert result.status == 0, result.stderr
    assert new.calls("kubeadm") == []
    assert pods(new) == before


def test_a_running_cluster_becomes_encrypted_without_a_gap(earlier: Machine) -> None:
    result = node.rotate(earlier)
    assert result.status == 0, result.stderr
    # The API server can always read what is stored: first text in the clear, last only key1.
    assert used(earlier) == ["identity,key1", "key1,identity", "replaced", "key1"]
    assert list(keys(earlier)) == ["key1"]
    assert pods(earlier) == pods(earlier, MADE)
    assert "profiling" in pods(earlier)["kube-scheduler"]
    assert earlier.read("/etc/kubernetes/nordmesh-initialised.yaml") == f"{node.HARDENED}\n"
    assert any("upload-config" in call for call in earlier.calls("kubeadm"))
    assert not earlier.exists(BEFORE)
    earlier.path("/calls").unlink()
    assert node.rotate(earlier).status == 0
    assert earlier.calls("kubeadm") == []


def test_another_number_rotates_the_key(new: Machine) -> None:
    old = keys(new)["key1"]
    new.path("/keys").unlink(missing_ok=True)
    result = node.rotate(new, 2)
    assert result.status == 0, result.stderr
    assert used(new)[-4:] == ["key1,key2", "key2,key1", "replaced", "key2"]
    assert list(keys(new)) == ["key2"]
    assert keys(new)["key2"] != old
    assert old not in everything(new)


def test_a_key_survives_a_loss_of_power(new: Machine) -> None:
    """Without it, no Secret could be read."""
    new.lose_power()
    assert node.rotate(new, 2).status == 0
    assert new.read("/after-power-loss/encryption.yaml") == new.read(ENCRYPTION)


def test_what_kubeadm_would_render_has_the_keys_in_use(new: Machine) -> None:
    assert node.rotate(new, 2).status == 0
    before = pods(new)
    assert "keys key2" in before["kube-apiserver"]
    patch = new.read("/etc/kubernetes/nordmesh-patches/kube-apiserver+merge.json")
    assert ', keys key2"' in patch
    # A setting that changes later is rendered with them.
    other = node.HARDENED.replace("'false'", "'true'")
    assert node.init(new, CLUSTER="exists", CLUSTER_CONFIG=other, ENCRYPTION_KEY="2").status == 0
    assert "keys key2" in pods(new)["kube-apiserver"]


# --- several control planes -----------------------------------------------------------------------


def test_a_key_of_another_control_plane_is_taken_over(new: Machine) -> None:
    theirs = node.key_file(key1=keys(new)["key1"], key2=NEW_KEY)
    result = node.harden(new, keys=f"keys - {node.encoded(theirs)}", ENCRYPTION_KEY="2")
    assert result.status == 0, result.stderr
    assert list(keys(new)) == ["key1", "key2"]
    assert keys(new)["key2"] == NEW_KEY
    assert everything(new).count(NEW_KEY) == 1
    assert NEW_KEY not in result.stdout + result.stderr


def test_a_key_of_one_that_answers_is_enough(new: Machine) -> None:
    theirs = node.encoded(node.key_file(key2=NEW_KEY))
    line = f"keys {theirs} error: cp-3: timed out"
    assert node.harden(new, keys=line, ENCRYPTION_KEY="2").status == 0
    assert keys(new)["key2"] == NEW_KEY


@pytest.mark.parametrize(
    "line", ["keys - error: cp-3: timed out", "error: cp-3: timed out", "", "keys key2=abc;"]
)
def test_no_key_is_made_while_another_control_plane_may_have_it(new: Machine, line: str) -> None:
    before = new.read(ENCRYPTION), pods(new)
    refused(node.harden(new, keys=line, ENCRYPTION_KEY="2"), "encryption-key-unknown")
    assert (new.read(ENCRYPTION), pods(new)) == before


def test_two_keys_of_one_number_are_refused(new: Machine) -> None:
    one, two = (node.encoded(node.key_file(key2=key)) for key in (NEW_KEY, keys(new)["key1"]))
    refused(
        node.harden(new, keys=f"keys {one} {two}", ENCRYPTION_KEY="2"),
        "encryption-keys-of-one-number",
    )
    assert list(keys(new)) == ["key1"]


@pytest.mark.parametrize("missing", ["key1", "identity,key1", "key1,key22"])
def test_a_key_is_not_used_before_every_control_plane_has_it(new: Machine, missing: str) -> None:
    others(new, "key1,key2", missing)
    assert node.harden(new, ENCRYPTION_KEY="2").status == 0
    result = node.key_step(new, USE, 2)
    refused(result, "encryption-keys-differ")
    assert f"not every control plane has key2: cp-3 has {missing} [" in result.stderr
    assert list(keys(new)) == ["key1", "key2"]
    others(new, "key1,key2", "key1,key2")
    assert node.key_step(new, USE, 2).status == 0
    assert list(keys(new)) == ["key2", "key1"]


def test_a_control_plane_that_does_not_show_its_keys_stops_a_rotation(new: Machine) -> None:
    new.write("/planes", "cp-2\n")
    assert node.harden(new, ENCRYPTION_KEY="2").status == 0
    result = node.key_step(new, USE, 2)
    refused(result, "encryption-keys-differ")
    assert "cp-2 has unknown" in result.stderr


def test_an_old_key_stays_while_another_control_plane_writes_with_it(new: Machine) -> None:
    others(new, "key1,key2")
    assert node.harden(new, ENCRYPTION_KEY="2").status == 0
    assert node.key_step(new, USE, 2).status == 0
    result = node.key_step(new, RETIRE, 2)
    refused(result, "encryption-keys-differ")
    assert "not every control plane encrypts with key2: cp-2 has key1,key2 [" in result.stderr
    assert list(keys(new)) == ["key2", "key1"]
    assert "replaced" not in used(new)


def test_the_first_control_plane_writes_every_secret_for_the_others(new: Machine) -> None:
    others(new, "key2,key1", "key2")
    assert node.harden(new, ENCRYPTION_KEY="2").status == 0
    assert node.key_step(new, USE, 2).status == 0
    assert node.key_step(new, RETIRE, 2).status == 0
    assert list(keys(new)) == ["key2"]
    assert "replaced" not in used(new)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_every_api_server_can_always_read_what_the_others_write(tmp_path: Path, count: int) -> None:
    """The steps on each control plane in the order of `pulumi up`, seen by all of them."""
    planes = [_plane(tmp_path / f"cp-{number}") for number in range(1, count + 1)]
    key1 = node.key_file(key1=keys(planes[0])["key1"])
    for plane in planes[1:]:
        plane.write(ENCRYPTION, key1, mode=0o600)
    written = {"key1"}
    restarts = 0
    for step in ("add", USE, RETIRE):
        for plane in planes:
            rest = [other for other in planes if other is not plane]
            others(plane, *(",".join(keys(other)) for other in rest))
            files = " ".join(node.encoded(other.read(ENCRYPTION)) for other in rest)
            if step == "add":
                result = node.harden(plane, keys=f"keys {files}".strip(), ENCRYPTION_KEY="2")
            else:
                result = node.key_step(plane, step, 2)
            assert result.status == 0, result.stderr
            restarts += 1
            if "replaced" in used(plane):
                written = {"key2"}
            written |= {next(iter(keys(other))) for other in planes}
            assert all(written <= keys(other).keys() for other in planes), step
    assert [list(keys(plane)) for plane in planes] == [["key2"]] * count
    assert len({keys(plane)["key2"] for plane in planes}) == 1
    assert written == {"key2"}
    rewrites = sum(used(plane).count("replaced") for plane in planes)
    print(f"\n{count} control planes: {restarts} restarts, {rewrites} rewrite")
    assert rewrites == 1


def _plane(folder: Path) -> Machine:
    machine = Machine.make(folder)
    node.future_control_plane(machine)
    _with_real_keys(machine)
    assert node.init(machine, CLUSTER_CONFIG=node.HARDENED).status == 0
    return machine


# --- failures -------------------------------------------------------------------------------------


def test_a_key_is_in_its_file_only(new: Machine) -> None:
    result = node.rotate(new, 2)
    assert result.status == 0
    key = keys(new)["key2"]
    assert everything(new).count(key) == 1
    assert key not in result.stdout + result.stderr
    assert PLANTED not in everything(new) + result.stdout + result.stderr


def test_a_setting_that_the_pods_refuse_is_taken_back(new: Machine) -> None:
    before, key = pods(new), new.read(ENCRYPTION)
    new.write("/broken", "profiling: broken\n")
    bad = node.HARDENED.replace("'false'", "broken")
    refused(
        node.init(new, CLUSTER="exists", CLUSTER_CONFIG=bad, AUDIT_POLICY="other"),
        "control-plane-not-ready",
    )
    assert pods(new) == before == pods(new, MADE)
    assert new.read(ENCRYPTION) == key
    assert new.read("/etc/kubernetes/audit/policy.yaml") == "kind: Policy\n"
    assert not new.exists(BEFORE)
    # With the old value again, nothing is left to do but record it.
    assert node.harden(new).status == 0
    assert pods(new) == before


@pytest.mark.parametrize("ca", ["another CA", "first CA"])
def test_the_ca_of_an_identity_provider_is_there_before_the_api_server_reads_it(
    new: Machine, ca: str
) -> None:
    assert node.harden(new, OIDC_CA="first CA").status == 0
    assert new.read(OIDC_CA) == "first CA\n"
    assert new.path(OIDC_CA).stat().st_mode & 0o777 == 0o600
    before = pods(new)
    new.path("/calls").unlink()
    assert node.harden(new, OIDC_CA=ca).status == 0
    assert new.read(OIDC_CA) == f"{ca}\n"
    # Only another CA restarts the pods.
    assert (pods(new) == before) == (ca == "first CA")
    assert (new.calls("kubeadm") == []) == (ca == "first CA")


def test_a_ca_that_the_api_server_refuses_is_taken_back(new: Machine) -> None:
    assert node.harden(new, OIDC_CA="good CA").status == 0
    before = pods(new)
    new.write("/broken", "profiling: broken\n")
    bad = node.HARDENED.replace("'false'", "broken")
    refused(
        node.init(new, CLUSTER="exists", CLUSTER_CONFIG=bad, OIDC_CA="bad CA"),
        "control-plane-not-ready",
    )
    assert pods(new) == before == pods(new, MADE)
    assert new.read(OIDC_CA) == "good CA\n"
    assert node.harden(new, OIDC_CA="good CA").status == 0
    assert pods(new) == before


def test_a_key_that_the_pods_refuse_is_taken_back(new: Machine) -> None:
    key = new.read(ENCRYPTION)
    new.write("/broken", "key1,key2\n")
    refused(node.rotate(new, 2), "control-plane-not-ready")
    assert new.read(ENCRYPTION) == key
    new.write("/broken", "key2,key1\n")
    refused(node.rotate(new, 2), "control-plane-not-ready")
    # What may have been written with the new key is still readable.
    assert list(keys(new)) == ["key1", "key2"]
    new.path("/broken").unlink()
    assert node.rotate(new, 2).status == 0
    assert list(keys(new)) == ["key2"]


def test_an_old_key_stays_until_every_secret_is_written(new: Machine) -> None:
    new.write("/refused", "")
    result = node.rotate(new, 2)
    refused(result, "secrets-not-encrypted")
    assert "Forbidden: db" in result.stderr
    assert PLANTED not in result.stderr
    assert list(keys(new)) == ["key2", "key1"]
    new.path("/refused").unlink()
    assert node.rotate(new, 2).status == 0
    assert list(keys(new)) == ["key2"]


def test_an_old_key_comes_back_if_a_secret_needs_it(new: Machine) -> None:
    """Then a Secret was not written again, although the API server accepted every write."""
    new.fake(
        "kubectl",
        f"""case $* in
        *'get secrets '*'-o name') echo secret/db; [ "$(tail -n 1 /keys)" != key2 ] ;;
        {node.KUBECTL_OF_PODS}
        esac""",
    )
    refused(node.rotate(new, 2), "old-key-needed")
    assert list(keys(new)) == ["key2", "key1"]


def test_an_old_key_comes_back_after_a_run_that_was_killed_before_it_looked(new: Machine) -> None:
    old = new.read(ENCRYPTION)
    fake = f"""case $* in
        *'get secrets '*'-o name')
            echo secret/db
            [ "$(tail -n 1 /keys)" = key2 ] || exit 0
            [ -e /killed ] || {{ touch /killed && kill -9 "$PPID"; }}
            exit 1
            ;;
        {node.KUBECTL_OF_PODS}
        esac"""
    new.fake("kubectl", fake)
    assert node.rotate(new, 2).status != 0
    assert new.exists("/killed")
    assert list(keys(new)) == ["key2"]
    refused(node.rotate(new, 2), "old-key-needed")
    assert list(keys(new)) == ["key2", "key1"]
    assert keys(new)["key1"] in old


def test_a_change_by_hand_is_not_lost(new: Machine) -> None:
    new.write(f"{MANIFESTS}/kube-apiserver.yaml", "by hand\n")
    result = node.rotate(new, 2)
    refused(result, "static-pod-changed")
    assert "> by hand" in result.stderr
    assert new.read(f"{MANIFESTS}/kube-apiserver.yaml") == "by hand\n"
    assert list(keys(new)) == ["key1"]


def test_a_file_of_keys_by_hand_is_not_overwritten(new: Machine) -> None:
    text = new.read(ENCRYPTION).replace("secretbox", "aescbc")
    new.write(ENCRYPTION, text)
    refused(node.rotate(new, 2), "encryption-file-unknown")
    assert new.read(ENCRYPTION) == text


def test_a_control_plane_that_stays_away_keeps_what_ran_before(new: Machine) -> None:
    """The old manifests are back, and their copies stay for the next run."""
    before = pods(new)
    new.write("/broken", "nordmesh\n")
    refused(node.harden(new, ENCRYPTION_KEY="2"), "control-plane-down")
    assert pods(new) == before == pods(new, BEFORE)
    new.path("/broken").unlink()
    assert node.harden(new).status == 0
    assert not new.exists(BEFORE)
