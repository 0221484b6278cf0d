"""configs/cluster: what cannot be run here is held against schemas, and run against stand-ins.

Ray's launcher: its own schema, and its AWS provider on moto's EC2. KubeRay: the fields of its RayJob. Slurm: stand-ins
for its commands that write down how they were called. The image: read. A node's environment: pip as a stand-in.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from configs.load import load
from pipeline.config import WitConfig
from tests.conftest import REPOSITORY
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture
from tests.ports import free_port
from tests.ray_commands import parse_ray

CLUSTER = REPOSITORY / "configs/cluster"
LOCK = REPOSITORY / "requirements.lock"
_KEYS = re.compile(r"AKIA[0-9A-Z]{16}|SECRET_ACCESS_KEY|PASSWORD|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{64}", re.IGNORECASE)


def _locked(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z][a-z0-9.-]*)==([^ ;]+)", text, re.MULTILINE))


def _text(name: str) -> str:
    return (CLUSTER / name).read_text(encoding="utf-8")


def test_no_file_for_clusters_holds_a_key() -> None:
    for path in CLUSTER.iterdir():
        assert not _KEYS.search(path.read_text(encoding="utf-8")), path


def test_config_of_a_crawl_in_a_bucket_is_read() -> None:
    config = load(WitConfig, CLUSTER / "crawl.yaml")
    assert (config.output, config.max_sources) == ("s3://BUCKET/wit", 20)


# --- Ray's launcher -------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """boto3 on moto's simulated AWS, with the roles that docs/crawl.md makes."""
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray puts the key pair that it makes into ~/.ssh
    with mock_aws():
        iam = boto3.client("iam")
        for node in ("head", "worker"):
            name = f"openwit-{node}"
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=_text("aws-trust.json"))
            iam.put_role_policy(RoleName=name, PolicyName="bucket", PolicyDocument=_text("aws-bucket.json"))
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        iam.put_role_policy(RoleName="openwit-head", PolicyName="nodes", PolicyDocument=_text("aws-head.json"))
        yield boto3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_ray_launcher_starts_a_head_on_demand_and_spot_workers(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(REPOSITORY)
    written = yaml.safe_load(_text("aws.yaml"))
    config = prepare_config(written)
    validate_config(config)  # by ray/autoscaler/ray-schema.json
    assert config["head_setup_commands"] == config["worker_setup_commands"] == written["setup_commands"]
    config = bootstrap_aws(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        provider.create_node(kind["node_config"], {"ray-node-name": name}, 1)
    found = aws.client("ec2").describe_instances()["Reservations"]
    nodes = {node["InstanceType"]: node for reservation in found for node in reservation["Instances"]}
    head, worker = nodes["m6i.2xlarge"], nodes["m6i.4xlarge"]
    assert head["IamInstanceProfile"]["Arn"].endswith("/openwit-head")
    assert worker["IamInstanceProfile"]["Arn"].endswith("/openwit-worker")
    assert (head.get("InstanceLifecycle"), worker.get("InstanceLifecycle")) == (None, "spot")


def test_ray_launcher_brings_what_the_set_up_needs_and_asks_for_the_token() -> None:
    config = yaml.safe_load(_text("aws.yaml"))
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert 0 < kinds["spot"]["min_workers"] < kinds["spot"]["max_workers"] == config["max_workers"]
    brought = {Path(where).name for where in config["file_mounts"]}
    (set_up,) = (line for line in config["setup_commands"] if "set_up.sh" in line)
    assert {Path(word).name for word in shlex.split(set_up)[1:] if "dist" not in word} - {"venv"} <= brought
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_MODE=token" in " ".join(config["setup_commands"])
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    for command in (head, worker):
        parse_ray(shlex.split(command.partition(";")[2].strip()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lifecycle_rule_drops_unfinished_uploads_and_nothing_else(aws: Any) -> None:
    rules = json.loads(_text("lifecycle.json"))
    client = aws.client("s3")
    client.create_bucket(Bucket="bucket")
    client.put_bucket_lifecycle_configuration(Bucket="bucket", LifecycleConfiguration=rules)
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket="bucket")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] > 0
    assert not {"Expiration", "Transitions", "NoncurrentVersionExpiration"} & set(rule)


# --- KubeRay --------------------------------------------------------------------------------------


def _exactly(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


_STRING, _COUNT, _FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_WORDS = {"type": "object", "additionalProperties": _STRING}
_NAME = {"type": "string", "pattern": r"^[a-z]([a-z0-9-]*[a-z0-9])?$"}
_QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}
_QUANTITIES = {"type": "object", "additionalProperties": _QUANTITY}
_CONTAINER = _exactly(
    {"name": _NAME, "image": _STRING},
    env={"type": "array", "items": _exactly({"name": _STRING, "value": _STRING})},
    ports={"type": "array", "items": _exactly({"containerPort": _COUNT}, name=_NAME)},
    resources=_exactly({}, requests=_QUANTITIES, limits=_QUANTITIES),
    volumeMounts={"type": "array", "items": _exactly({"name": _NAME, "mountPath": _STRING})},
)
_CLAIM = _exactly(
    {
        "accessModes": {"type": "array", "items": {"enum": ["ReadWriteOnce"]}},
        "resources": _exactly({"requests": _QUANTITIES}),
    },
    storageClassName=_STRING,
)
_VOLUME = _exactly(
    {"name": _NAME},
    emptyDir=_exactly({}, sizeLimit=_QUANTITY, medium=_STRING),
    ephemeral=_exactly({"volumeClaimTemplate": _exactly({"spec": _CLAIM})}),
)
_POD = _exactly(
    {"containers": {"type": "array", "items": _CONTAINER, "minItems": 1}},
    serviceAccountName=_NAME,
    restartPolicy={"enum": ["Always", "Never", "OnFailure"]},
    securityContext=_exactly({}, runAsNonRoot=_FLAG, runAsUser=_COUNT, fsGroup=_COUNT),
    nodeSelector=_WORDS,
    tolerations={
        "type": "array",
        "items": _exactly({"key": _STRING, "operator": {"enum": ["Exists", "Equal"]}}, value=_STRING, effect=_STRING),
    },
    terminationGracePeriodSeconds=_COUNT,
    volumes={"type": "array", "items": _VOLUME},
)
_TEMPLATE = _exactly({"spec": _POD})
_RAY_JOB = _exactly(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": _exactly({"name": _NAME}),
        "spec": _exactly(
            {
                "entrypoint": _STRING,
                "rayClusterSpec": _exactly(
                    {"headGroupSpec": _exactly({"template": _TEMPLATE}, rayStartParams=_WORDS)},
                    rayVersion=_STRING,
                    authOptions=_exactly({}, mode={"enum": ["disabled", "token"]}),
                    enableInTreeAutoscaling=_FLAG,
                    autoscalerOptions=_exactly({}, version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=_COUNT),
                    workerGroupSpecs={
                        "type": "array",
                        "items": _exactly(
                            {"groupName": _NAME, "minReplicas": _COUNT, "maxReplicas": _COUNT, "template": _TEMPLATE},
                            rayStartParams=_WORDS,
                        ),
                    },
                ),
            },
            backoffLimit=_COUNT,
            shutdownAfterJobFinishes=_FLAG,
            ttlSecondsAfterFinished=_COUNT,
        ),
    }
)
"""The fields that we use of KubeRay 1.6.2's RayJob and of Kubernetes' pods, and no others, written by hand: its own
schema (helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml) has 1.4 MB. The file was held against all of it once."""


@pytest.fixture(scope="module")
def kuberay() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(_text("kuberay.yaml"))}


def test_ray_job_has_kuberays_fields(kuberay: dict[str, dict[str, Any]]) -> None:
    assert set(kuberay) == {"ServiceAccount", "RayJob"}
    jsonschema.validate(kuberay["RayJob"], _RAY_JOB)


def test_ray_job_keeps_kuberays_rules(kuberay: dict[str, dict[str, Any]]) -> None:
    """Those of ray-operator/controllers/ray/utils/validation.go, 1.6.2, that its schema does not say."""
    spec = kuberay["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"]  # else no ttlSecondsAfterFinished
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)  # for authOptions
    assert cluster["rayVersion"] == _locked(LOCK.read_text())["ray"]
    assert len(kuberay["RayJob"]["metadata"]["name"]) <= 47
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["restartPolicy"] == "Never"  # for version v2 of the autoscaler


def test_pods_have_an_account_for_the_bucket_and_a_bounded_scratch(kuberay: dict[str, dict[str, Any]]) -> None:
    cluster = kuberay["RayJob"]["spec"]["rayClusterSpec"]
    head, worker = (g["template"]["spec"] for g in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))
    for pod in (head, worker):
        assert pod["serviceAccountName"] == kuberay["ServiceAccount"]["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"]
        (container,), (volume,) = pod["containers"], pod["volumes"]
        (mount,) = container["volumeMounts"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert (mount["name"], mount["mountPath"]) == (volume["name"], environment["TMPDIR"])
    assert head["volumes"][0]["emptyDir"]["sizeLimit"]
    assert worker["volumes"][0]["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
    assert "SPOT" in worker["nodeSelector"].values()
    assert "nodeSelector" not in head
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    words = shlex.split(kuberay["RayJob"]["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "pipeline", "run"]


# --- Slurm ----------------------------------------------------------------------------------------

_STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
echo "mode $(stat -c %a "$RAY_AUTH_TOKEN_PATH" 2> /dev/null) $RAY_AUTH_MODE $TMPDIR" >> "$SEEN"
"""
_SRUN = (
    _STAND_IN
    + """
while [ "${1#--}" != "$1" ]; do shift; done
case "$*" in
    *"ray start"*) exec sleep 60 ;;
    *health-check*) [ "$(grep -c health-check "$CALLS")" -ge 2 ] ;;
    *pipeline*)
        while [ "$(grep -c 'ray start' "$CALLS")" -lt 3 ]; do sleep 0.05; done
        echo "address $RAY_ADDRESS" >> "$SEEN"
        exit "$STATUS" ;;
    *) exec "$@" ;;
esac
"""
)


@pytest.mark.parametrize("status", [0, 2])
def test_slurm_job_starts_head_workers_and_driver_and_leaves_nothing(tmp_path: Path, status: int) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {
        "srun": _SRUN,
        "scontrol": _STAND_IN + "printf 'node-%s\\n' 1 2 3",
        "sleep": '#!/bin/sh\n[ "$1" = 2 ] || exec /bin/sleep "$@"',  # the job's own wait for its head
    }.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    calls, seen, home = tmp_path / "calls", tmp_path / "seen", tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "CALLS": str(calls),
        "SEEN": str(seen),
        "STATUS": str(status),
        "OPENWIT_VENV": str(tmp_path),
        "OPENWIT_SCRATCH": str(tmp_path / "disk"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node-[1-3]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "32",
    }
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sh"), "s3://bucket/crawl.yaml"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    said = calls.read_text().splitlines()
    kinds = [next(kind for kind in _KINDS if kind in line) for line in said]
    assert kinds[:2] == ["hostnames", "mkdir"]
    assert sorted(kinds[2:5]) == ["--head", "health-check", "health-check"]  # it is asked until it answers
    assert (sorted(kinds[5:8]), kinds[8:]) == (["pipeline", "ray start", "ray start"], ["rm -rf"])
    starts = [line for line in said if "ray start" in line]
    assert sorted(re.findall(r"--nodelist=(\S+)", " ".join(starts))) == ["node-1", "node-2", "node-3"]
    (address,) = {re.search(r"--address=(\S+)", line).group(1) for line in starts[1:]}  # type: ignore[union-attr]  # it must be there
    assert f"address {address}" in seen.read_text().splitlines()
    assert address.startswith("node-1:")
    for line in starts:
        words = shlex.split(line)
        parse_ray(words[next(i for i, word in enumerate(words) if word.endswith("/ray")) :])
    scratch = f"{tmp_path}/disk/ow4711"
    assert f"mode 600 token {scratch}" in seen.read_text()  # what Ray's processes see
    assert not (home / ".ray/openwit-4711.token").exists()
    assert not Path(scratch).exists()


_KINDS = ("hostnames", "mkdir", "--head", "health-check", "ray start", "pipeline", "rm -rf")


@pytest.mark.slow
def test_slurm_job_crawls_with_a_real_ray(tmp_path: Path) -> None:
    """On this machine alone: `srun` runs its words where it stands."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    (programs / "srun").write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    (programs / "scontrol").write_text("#!/bin/sh\nhostname -i | cut -d' ' -f1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    paths = {f"/{i}": text(picture(i)) for i in range(4)}
    with LoopbackServer(paths) as server, tempfile.TemporaryDirectory(prefix="ow", dir="/tmp") as scratch:
        small = SmallRun.make(tmp_path / "run", server, paths)
        config = yaml.safe_load(small.config.read_text()) | {"engine": {"kind": "ray"}}
        small.config.write_text(yaml.safe_dump(config))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(home),
            "OPENWIT_VENV": sys.prefix,
            "OPENWIT_SCRATCH": scratch,
            "SLURM_JOB_ID": str(free_port() - 20_000),  # of which the job makes its port
            "SLURM_JOB_NODELIST": "this",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "2",
        }
        words = ["bash", str(CLUSTER / "slurm.sh"), str(small.config)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        assert len(small.samples()) == 4
        assert not list(Path(scratch).iterdir())
    assert not list((home / ".ray").iterdir())


def test_slurm_token_is_on_no_command_line() -> None:
    script = _text("slurm.sh")
    assert subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")]).returncode == 0
    assert "umask 077" in script[: script.index("secrets.token_hex")]
    assert not re.search(r"RAY_AUTH_TOKEN=", script)
    assert "set -euo pipefail" in script
    options = re.findall(r"^#SBATCH (--\S+)", script, re.MULTILINE)
    assert {"--nodes=4", "--ntasks-per-node=1", "--requeue"} <= set(options)


# --- the image, and a node's environment ----------------------------------------------------------


def _set_up(tmp_path: Path) -> list[str]:
    """What `set_up.sh` would have pip do; a Python that writes down its words stands in."""
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\necho "$*" >> "$CALLS"\nif [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    directory, wheel = tmp_path / "venv", "openwit-0.1.0-py3-none-any.whl"
    environment = {**os.environ, "PYTHON": str(python), "CALLS": str(tmp_path / "calls")}
    words = ["sh", str(CLUSTER / "set_up.sh"), str(directory), str(LOCK), wheel]
    subprocess.run(words, env=environment, check=True, timeout=60)
    return (tmp_path / "calls").read_text().splitlines()


def test_set_up_installs_what_a_crawl_needs_by_hash_and_not_the_trainer(tmp_path: Path) -> None:
    assert _set_up(tmp_path) == [
        f"-m venv {tmp_path}/venv",
        f"-m pip install --quiet --require-hashes --no-deps -r {LOCK}",
        "-m pip install --quiet --no-deps openwit-0.1.0-py3-none-any.whl",
    ]
    assert _needed() <= set(_locked(LOCK.read_text(encoding="utf-8")))


def _needed() -> set[str]:
    """What openwit[s3] asks for, and what that asks for."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["s3"]]
    waiting = [(Requirement(line).name, frozenset(Requirement(line).extras)) for line in asked]
    found: set[str] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name := canonicalize_name(name)) in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            ):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


def test_image_is_pinned_and_runs_as_nobody_of_importance() -> None:
    text = _text("Containerfile").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    parsed = [line.split(maxsplit=1) for line in lines]
    assert {word for word, _ in parsed} <= {"FROM", "COPY", "RUN", "USER", "WORKDIR", "ENV", "CMD"}
    ((_, base),) = (each for each in parsed if each[0] == "FROM")
    assert re.fullmatch(r"docker\.io/library/python:3\.1[12]\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert re.findall(r'"ray\[default\]==([\d.]+)"', text) == [_locked(LOCK.read_text())["ray"]]
    users = [rest for word, rest in parsed if word == "USER"]
    assert users
    assert users[-1].split(":")[0] not in ("0", "root")
    assert lines.index(f"USER {users[-1]}") > max(i for i, (word, _) in enumerate(parsed) if word in ("RUN", "COPY"))
    ((_, copied),) = (each for each in parsed if each[0] == "COPY")
    for name in copied.split()[:-1]:
        assert name.startswith("dist/openwit-") or (REPOSITORY / name).is_file(), name
    installs = [rest for word, rest in parsed if word == "RUN" and "install" in rest]
    assert all("set_up.sh" in rest or "--constraint" in rest for rest in installs)
    version = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"openwit-{version.group(1)}-py3-none-any.whl" in copied
