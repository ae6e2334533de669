"""What every target on AWS shares: calls that are checked before they are sent, clients, uploads, and what was made.

Raises:
    InputError: at import: boto3 is not installed.
"""

from __future__ import annotations

from importlib.util import find_spec

from qat.errors import InputError

if find_spec("boto3") is None:
    raise InputError("boto3 is not installed, which a push to AWS needs; pip install '.[deploy]' in qat's checkout")
