"""The rules of an import, one duty a file; :mod:`qat.deploy.bedrock.preflight` lists them."""
