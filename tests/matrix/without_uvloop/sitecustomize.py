"""Read by each Python that starts below the setting ``asyncio``: the product's commands find no uvloop; tests that name it do."""

import sys

# `sys.argv` is not set yet. A console script is its interpreter's first argument.
if any(argument.endswith("/apim-auth-proxy") for argument in sys.orig_argv[1:3]):
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # what makes an import raise ImportError
