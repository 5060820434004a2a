"""The wire contract as OpenAPI, from the reference backend with all extensions: `make openapi`."""

import json
import sys
from dataclasses import fields
from pathlib import Path

from sentinel_sync.backend import BackendSettings, Extensions, create_app

every = Extensions(**{field.name: True for field in fields(Extensions)})
# Its folder is opened when it is served, which it is not.
document = create_app(BackendSettings(folder=Path("unused"), api_keys=("unused",), extensions=every)).openapi()
json.dump(document, sys.stdout, indent=1)
sys.stdout.write("\n")
