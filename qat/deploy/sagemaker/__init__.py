"""Amazon SageMaker with AWS's LMI container: vLLM on the packed integers, behind an endpoint."""
