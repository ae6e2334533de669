"""Who says what the rules say; docs/deploy.md has the addresses."""

from __future__ import annotations

IMPORT = "Amazon Bedrock User Guide: model-customization-import-model"
INVOKE = "Amazon Bedrock User Guide: invoke-imported-model"
TEMPLATES = "Amazon Bedrock User Guide: custom-chat-templates-tokenizers"
ROLE = "Amazon Bedrock User Guide: model-import-iam-role"
KEY = "Amazon Bedrock User Guide: encryption-import-model"
BLOG = "AWS Machine Learning Blog, 2025-11: GPT-OSS with Custom Model Import"
SAMPLES = "github.com/aws-samples/amazon-bedrock-samples, custom-models"
API = "botocore, service model of bedrock 2023-04-20"
POLICY = "our own policy: AWS is silent on integer weights"
MEASURED = "measured with transformers 4.51.3: docs/deploy.md"
