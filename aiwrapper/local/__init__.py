"""A real model without a key: SmolLM2 in a child process that is spoken to like any other OpenAI-compatible host.

Read `_model_file.py` first (where the weights come from), then `_server.py` and `_process.py` (the parent's
side), then `_child.py` (the child's side, which never runs in our process). `docs/local-model.md` tells users about it.
"""

from ._model_file import SMOLLM2 as SMOLLM2
from ._model_file import ModelError as ModelError
from ._model_file import ModelFile as ModelFile
from ._model_file import cache_directory as cache_directory
from ._model_file import find_model as find_model
from ._model_file import get_model as get_model
from ._process import Endpoint as Endpoint
from ._server import SAMPLING as SAMPLING
from ._server import LocalModel as LocalModel
from ._server import Rest as Rest
