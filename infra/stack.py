"""The stack of a stage on the emulator: by osls as on AWS, or the same template made at once, for tests."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra import build, osls
from infra.emulator.client import client
from infra.emulator.functions import host_runtime
from infra.osls import ROOT, DeployError

CACHE: Final = ROOT / ".overcast-local" / "templates"
_CODE: Final = "overcast-deployment"


@dataclass(frozen=True)
class Options:
    """Parameters of the local stage that differ from serverless.yml's.

    Attributes
    ----------
    memory : MB of the three sizes of worker.
    worker_timeout, driver_timeout : seconds.
    lease : seconds after which a driver that says nothing counts as dead.
    allow_code : whether jobs may run Python functions that were uploaded.
    """

    stage: str = "local"
    memory: tuple[int, int, int] = (512, 1024, 2048)
    worker_timeout: int = 120
    driver_timeout: int = 120
    lease: int = 60
    allow_code: bool = False

    def params(self) -> list[str]:
        """The same as arguments of osls."""
        given = {
            "arch": "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64",
            "package": "lambda-local",
            "runtime": host_runtime(),
            "memory": self.memory[0],
            "memoryLarge": self.memory[1],
            "memoryXlarge": self.memory[2],
            "workerTimeout": self.worker_timeout,
            "driverTimeout": self.driver_timeout,
            "taskSeconds": self.worker_timeout + 5,
            "lease": self.lease,
            "allowCode": int(self.allow_code),
        }
        return [f"--param={name}={value}" for name, value in given.items()]


@dataclass(frozen=True)
class Stack:
    """A deployed stage: its bucket, the URL of its API, and the names of its functions."""

    stage: str
    bucket: str
    api: str
    workers: tuple[str, ...]
    driver: str

    def variables(self) -> dict[str, str]:
        """Environment variables that name the deployment to a client."""
        return {
            "OVERCAST_API": self.api,
            "OVERCAST_BUCKET": self.bucket,
            "OVERCAST_STAGE": self.stage,
            "OVERCAST_WORKERS": ",".join(self.workers),
            "OVERCAST_DRIVER": self.driver,
        }


def deploy(variables: Mapping[str, str], options: Options) -> Stack:
    """Deploy by osls, as to AWS. The local package must be built."""
    osls.run(["deploy", "--stage", options.stage, *options.params()], variables)
    return find(variables, options.stage)


def create(variables: Mapping[str, str], options: Options) -> Stack:
    """Make the stack from the template that osls packages, without osls's own deployment: a few seconds.

    The template is kept for the next time, by the hash of all that it is made of.
    """
    document = template(options)
    resources = document["Resources"]
    for name in ("ServerlessDeploymentBucket", "ServerlessDeploymentBucketPolicy"):
        resources.pop(name, None)
    document["Outputs"].pop("ServerlessDeploymentBucketName", None)
    package = (ROOT / "dist" / "lambda-local.zip").read_bytes()
    s3, key = client("s3", variables), f"{hashlib.sha256(package).hexdigest()}.zip"
    s3.create_bucket(Bucket=_CODE)
    s3.put_object(Bucket=_CODE, Key=key, Body=package)
    for resource in resources.values():
        if resource["Type"] == "AWS::Lambda::Function":
            resource["Properties"]["Code"] = {"S3Bucket": _CODE, "S3Key": key}
    formation = client("cloudformation", variables)
    formation.create_stack(
        StackName=f"overcast-{options.stage}",
        TemplateBody=json.dumps(document),
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
    )
    return find(variables, options.stage)


def template(options: Options, *, real: bool = False) -> dict[str, Any]:
    """The CloudFormation template that osls makes of serverless.yml; `real`: with a real stage's parameters.

    The local package must be built; it stands for the real one, which the template does not look into.
    """
    params = ["--param=package=lambda-local"] if real else options.params()
    sources = [ROOT / "serverless.yml", *sorted((ROOT / "infra" / "stack").glob("*.yml"))]
    sources += sorted((ROOT / "dist").glob("lambda-*.json"))
    text = json.dumps([options.stage, params, [path.read_text() for path in sources]])
    kept = CACHE / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            osls.run(["package", "--stage", options.stage, "--package", folder, *params], {})
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder) / "cloudformation-template-update-stack.json", kept)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def find(variables: Mapping[str, str], stage: str) -> Stack:
    """The stack of a stage, by its outputs. DeployError where its creation failed."""
    described = client("cloudformation", variables).describe_stacks(StackName=f"overcast-{stage}")["Stacks"][0]
    if not described["StackStatus"].endswith(("CREATE_COMPLETE", "UPDATE_COMPLETE")):
        raise DeployError(f"the stack overcast-{stage} is in state {described['StackStatus']}")
    outputs = {item["OutputKey"]: item["OutputValue"] for item in described["Outputs"]}
    sizes = ("worker", "worker-large", "worker-xlarge")
    return Stack(
        stage=stage,
        bucket=outputs["Bucket"],
        api=outputs["ApiLambdaFunctionUrl"],
        workers=tuple(f"overcast-{stage}-{size}" for size in sizes),
        driver=f"overcast-{stage}-driver",
    )


def build_local() -> None:
    """Build the local package where it is missing or older than what it is made of."""
    path = ROOT / "dist" / "lambda-local.zip"
    sources = [file for top in build.OURS for file in (ROOT / top).rglob("*.py")]
    if not path.exists() or path.stat().st_mtime < max(file.stat().st_mtime for file in sources):
        build.build(local=True)
