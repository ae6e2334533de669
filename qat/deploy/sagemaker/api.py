"""SageMaker's calls: model, endpoint configuration, endpoint, and one question to it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qat.deploy.aws.calls import Call
from qat.deploy.aws.clients import Aws
from qat.deploy.aws.errors import AwsError
from qat.deploy.aws.s3 import S3Uri
from qat.deploy.aws.waiting import Pauses, wait_for
from qat.errors import InputError, RunError

if TYPE_CHECKING:
    from qat.deploy.sagemaker.target import SageMaker

VARIANT = "all"
MOST_TOKENS = 16
_LONGEST_NAME = 63
_INSTANCE_MINUTES = 15
"""That AWS takes to find an instance and to pull the image, besides download and start."""


@dataclass(frozen=True)
class Endpoint:
    """What is made; one name for all three.

    Attributes:
        name: of model, configuration and endpoint.
        data: ``ModelDataSource``: where the files are, and how they are packed.
        target: the options of the rest.
    """

    name: str
    data: dict[str, Any]
    target: SageMaker

    @classmethod
    def of(cls, target: SageMaker) -> Endpoint:
        """By the options of ``target``.

        Raises:
            InputError: one that is needed is missing.
        """
        for option in ("image", "role_arn", "instance"):
            if getattr(target, option) is None:
                raise InputError(f"target.{option} is not given, which an endpoint needs; see docs/deploy.md")
        uri = S3Uri.parse(target.s3_uri)
        name = target.endpoint_name or _name_of(uri)
        tar = target.packaging == "tar"
        source = {
            "S3Uri": str(uri) + ("model.tar.gz" if tar else ""),
            "S3DataType": "S3Object" if tar else "S3Prefix",
            "CompressionType": "Gzip" if tar else "None",
        }
        return cls(name, {"S3DataSource": source}, target)


def creations(endpoint: Endpoint) -> tuple[Call, Call, Call]:
    """CreateModel, CreateEndpointConfig and CreateEndpoint."""
    target, name = endpoint.target, endpoint.name
    tags = {"Tags": [{"Key": key, "Value": value} for key, value in target.tags.items()]} if target.tags else {}
    container = {"Image": target.image, "ModelDataSource": endpoint.data}
    model = {"ModelName": name, "ExecutionRoleArn": target.role_arn, "PrimaryContainer": container, **tags}
    variant = {
        "VariantName": VARIANT,
        "ModelName": name,
        "InstanceType": target.instance,
        "InitialInstanceCount": target.instances,
        "ModelDataDownloadTimeoutInSeconds": target.start_minutes * 60,
        "ContainerStartupHealthCheckTimeoutInSeconds": target.start_minutes * 60,
    }
    key = {} if target.kms_key is None else {"KmsKeyId": target.kms_key}
    config = {"EndpointConfigName": name, "ProductionVariants": [variant], **key, **tags}
    return (
        Call("sagemaker", "CreateModel", model),
        Call("sagemaker", "CreateEndpointConfig", config),
        Call("sagemaker", "CreateEndpoint", {"EndpointName": name, "EndpointConfigName": name, **tags}),
    )


def described(kind: str, name: str) -> Call:
    """DescribeModel, DescribeEndpointConfig or DescribeEndpoint; ``kind`` as in these names."""
    return Call("sagemaker", f"Describe{kind}", {f"{kind}Name": name})


def deleted(kind: str, name: str) -> Call:
    """DeleteModel, DeleteEndpointConfig or DeleteEndpoint."""
    return Call("sagemaker", f"Delete{kind}", {f"{kind}Name": name})


def wait_until_in_service(aws: Aws, name: str, start_minutes: int) -> None:
    """Wait for the endpoint.

    Raises:
        RunError: it failed, in AWS's own words, or takes too long.
    """
    minutes = 2 * start_minutes + _INSTANCE_MINUTES

    def look() -> tuple[str, str | None]:
        found = aws.find(described("Endpoint", name), {"EndpointStatus": "InService"})
        status = "gone" if found is None else found["EndpointStatus"]
        if found is None or status in ("Failed", "OutOfService", "Deleting"):
            why = (found or {}).get("FailureReason", "no reason given")
            raise RunError(f"endpoint {name} is {status}: {why}; delete it (action=delete), then push again")
        return status, name if status == "InService" else None

    def late(status: str) -> str:
        return f"endpoint {name} is {status} after {minutes} min; push again to wait on, or delete it"

    pauses = Pauses(first=15.0, longest=60.0, total=minutes * 60, factor=1.5)
    wait_for(look, pauses, aws.clock, lambda told: aws.say(f"endpoint {name}: {told}", "dim"), late)


def ask(aws: Aws, name: str, prompt: str) -> str:
    """Ask the endpoint once, greedily, and return what it wrote.

    Raises:
        RunError: the answer holds no text.
    """
    body = json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": MOST_TOKENS}}).encode()
    parameters = {"EndpointName": name, "Body": body, "ContentType": "application/json", "Accept": "application/json"}
    rehearsed = {"Body": b'{"generated_text": ""}'}
    answer = aws.send(Call("sagemaker-runtime", "InvokeEndpoint", parameters), rehearsed, again=_is_starting)["Body"]
    try:
        return str(json.loads(answer)["generated_text"])
    except (ValueError, LookupError, TypeError):
        raise RunError(f"the endpoint's answer holds no text: {answer[:200].decode(errors='replace')}") from None


def _is_starting(error: AwsError) -> bool:
    return error.transient or error.code == "ModelNotReadyException"


def _name_of(uri: S3Uri) -> str:
    """A name made of the end of an address: letters and digits, with hyphens between."""
    words = re.findall(r"[0-9a-zA-Z]+", uri.prefix.rpartition("/")[2])
    return "-".join(words)[:_LONGEST_NAME].strip("-") or "model"
