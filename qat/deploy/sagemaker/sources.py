"""Who says what the rules say; docs/deploy.md has the addresses."""

from __future__ import annotations

LMI = "djl-serving, serving/docs/lmi/deployment_guide (configurations, model-artifacts, deploying-your-endpoint)"
VLLM = "djl-serving, serving/docs/lmi/user_guides/vllm_user_guide"
KERNELS = "vLLM, compressed_tensors/schemes: wNa16 (WNA16_SUPPORTED_BITS = 4, 8) and w8a8_int8"
REGISTRIES = "sagemaker-python-sdk, image_uri_config/djl-lmi.json"
API = "botocore, service model of sagemaker 2017-07-24"
POLICY = "our own policy: no pickles"

LMI_ACCOUNTS = {
    "763104351884": (
        "ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-1 ap-southeast-2 ca-central-1 eu-central-1 eu-north-1 "
        "eu-west-1 eu-west-2 eu-west-3 sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2"
    ),
    "626614931356": "af-south-1",
    "780543022126": "il-central-1",
    "871362719292": "ap-east-1",
    "364406365360": "ap-northeast-3",
    "907027046896": "ap-southeast-3",
    "692866216735": "eu-south-1",
    "217643126080": "me-south-1",
    "914824155844": "me-central-1",
    "204538143572": "ca-west-1",
    "727897471807": "cn-north-1 cn-northwest-1",
    "446045086412": "us-gov-east-1",
    "442386744353": "us-gov-west-1",
}
"""Account of AWS's own registry of the LMI image (repository ``djl-inference``) -> its regions (:data:`REGISTRIES`)."""


def lmi_account(region: str) -> str | None:
    """Whose registry holds the LMI image for ``region``; None where the source names none."""
    return next((account for account, regions in LMI_ACCOUNTS.items() if region in regions.split()), None)
