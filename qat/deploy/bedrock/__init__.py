"""Amazon Bedrock Custom Model Import: the 16-bit twin, its rules, its policies, and the way there."""
