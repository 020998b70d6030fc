"""What moto's CloudFormation lacks for our stack.

Adds AWS::Lambda::Url, AWS::Lambda::EventInvokeConfig, AWS::S3::BucketPolicy and AWS::CloudWatch::Alarm; keeps the
properties of functions that moto drops; refreshes a stack's outputs after an update.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any, ClassVar

from moto.awslambda.models import EventInvokeConfig, LambdaFunction
from moto.awslambda.utils import get_backend
from moto.cloudformation import models as stacks
from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.s3.models import s3_backends

from infra.emulator.urls import local_url

_ENDPOINT = ""


class _Resource:
    """What moto asks of every model; it finds models among the direct subclasses of CloudFormationModel."""

    kind: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def physical_resource_id(self) -> str:
        return self.name

    @classmethod
    def cloudformation_type(cls) -> str:
        return cls.kind

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr in {"FunctionUrl", "FunctionArn"}

    def is_created(self) -> bool:
        return True

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,  # noqa: ARG003 - moto passes all by name
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> Any:
        return cls.create_from_cloudformation_json(new_resource_name, cloudformation_json, account_id, region_name)

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> Any:
        return cls.made(resource_name, cloudformation_json.get("Properties", {}), account_id, region_name)

    @classmethod
    @abstractmethod
    def made(cls, name: str, given: dict[str, Any], account: str, region: str) -> Any:
        """Make it of its properties, with references resolved."""

    @classmethod
    def delete_from_cloudformation_json(cls, resource_name: str, *_: Any) -> None:
        """The function or bucket that it belongs to takes it along."""

    def delete(self, account_id: str, region: str) -> None:
        """The same."""


class FunctionUrl(_Resource, CloudFormationModel):  # type: ignore[misc]
    """The URL of a function, under the emulator's endpoint."""

    kind = "AWS::Lambda::Url"
    url = ""

    @classmethod
    def made(cls, name: str, given: dict[str, Any], account: str, region: str) -> FunctionUrl:  # noqa: ARG003
        function = get_backend(account, region).get_function(given["TargetFunctionArn"])
        config = {key: given[key] for key in ("AuthType", "Cors", "InvokeMode") if key in given}
        if function.url_config:
            function.update_url_config(config)
        else:
            function.create_url_config(config)
            function.url_config.url = local_url(_ENDPOINT, function.url_config.url)
        made = cls(function.function_arn)
        made.url = function.url_config.url
        return made

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return {"FunctionUrl": self.url, "FunctionArn": self.name}[attribute_name]


class AsyncConfig(_Resource, CloudFormationModel):  # type: ignore[misc]
    """Retries and destinations of asynchronous invocations."""

    kind = "AWS::Lambda::EventInvokeConfig"

    @classmethod
    def made(cls, name: str, given: dict[str, Any], account: str, region: str) -> AsyncConfig:  # noqa: ARG003
        function = get_backend(account, region).get_function(given["FunctionName"])
        limits = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds")
        config: dict[str, Any] = {key: int(given[key]) for key in limits if key in given}
        if "DestinationConfig" in given:
            config["DestinationConfig"] = given["DestinationConfig"]
        function.event_invoke_config[:] = [EventInvokeConfig(function.function_arn, function.last_modified, config)]
        return cls(f"{function.function_name}:{given.get('Qualifier')}")


class BucketPolicy(_Resource, CloudFormationModel):  # type: ignore[misc]
    """A bucket policy without its statements about TLS."""

    kind = "AWS::S3::BucketPolicy"

    @classmethod
    def made(cls, name: str, given: dict[str, Any], account: str, region: str) -> BucketPolicy:  # noqa: ARG003
        # moto ignores the conditions of bucket policies, and plain HTTP is all there is here
        kept = [item for item in given["PolicyDocument"]["Statement"] if "aws:SecureTransport" not in json.dumps(item)]
        if kept:
            document = {**given["PolicyDocument"], "Statement": kept}
            s3_backends[account]["aws"].put_bucket_policy(given["Bucket"], json.dumps(document).encode())
        return cls(given["Bucket"])


class Alarm(_Resource, CloudFormationModel):  # type: ignore[misc]
    """An alarm: kept in name only, for the emulator has no metrics that could set it off."""

    kind = "AWS::CloudWatch::Alarm"

    @classmethod
    def made(cls, name: str, given: dict[str, Any], account: str, region: str) -> Alarm:  # noqa: ARG003
        return cls(name)


def _complete(function: Any, given: dict[str, Any]) -> Any:
    """Set what moto drops of a function's properties."""
    if "EphemeralStorage" in given:
        function.ephemeral_storage = int(given["EphemeralStorage"]["Size"])
    if "Architectures" in given:
        function.architectures = given["Architectures"]
    if "ReservedConcurrentExecutions" in given:
        function.reserved_concurrency = int(given["ReservedConcurrentExecutions"])
    function.recursive_loop = given.get("RecursiveLoop", "Terminate")
    return function


def install(endpoint: str) -> None:
    """Add all that to moto, before its list of models is first read; function URLs will be under `endpoint`."""
    global _ENDPOINT  # noqa: PLW0603 - moto makes the models
    _ENDPOINT = endpoint
    for cached in (parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map):
        cached.cache_clear()
    create = LambdaFunction.create_from_cloudformation_json.__func__
    update = LambdaFunction.update_from_cloudformation_json.__func__

    def created(
        cls: Any,
        /,
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **rest: Any,
    ) -> Any:
        made = create(cls, resource_name, cloudformation_json, account_id, region_name, **rest)
        return _complete(made, cloudformation_json["Properties"])

    def updated(
        cls: Any,
        /,
        original_resource: Any,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> Any:
        made = update(cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name)
        return _complete(made, cloudformation_json["Properties"])

    LambdaFunction.create_from_cloudformation_json = classmethod(created)
    LambdaFunction.update_from_cloudformation_json = classmethod(updated)
    apply = stacks.ChangeSet.apply

    def applied(self: Any) -> None:
        apply(self)
        self.stack.template, self.stack.template_dict = self.template, self.template_dict
        self.stack.output_map = self.stack._create_output_map()  # noqa: SLF001

    stacks.ChangeSet.apply = applied
