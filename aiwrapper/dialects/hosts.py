"""Who speaks which dialect, where, and in whose environment variable its key is looked for.

Only a table: it reads no environment. The addresses are those that other clients of these hosts use, as far as they
could be compared in November 2026 (Fireworks and Moonshot could not); none was called.
A host that is missing needs no entry: `Lang.openai_like(base_url=...)`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import field, frozen

from aiwrapper._core.dialect import Dialect
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat


@frozen
class Host:
    """A place that answers.

    Args:
        base_url: what the dialect's paths are put behind; no slash at its end.
        dialect: what it speaks, with its own ways.
        api_key_env: the environment variable that its key is usually in; None for hosts that want no key.
    """

    base_url: str
    dialect: Dialect = field(kw_only=True)
    api_key_env: str | None = field(kw_only=True)


_PLAIN = OpenAIChat(max_tokens_field="max_tokens")
"""The ways of everybody who took over the dialect before OpenAI renamed the field."""

_REASONING_BACK = OpenAIChat(max_tokens_field="max_tokens", reasoning_back=True)

# Mistral refuses fields it does not know, `stream_options` among them (yetone/avante.nvim#2347, dnakov/anon-kode#53),
# and tells its usage unasked, in the last chunk.
_MISTRAL = OpenAIChat(max_tokens_field="max_tokens", usage_option=False, nine_character_ids=True)

HOSTS: Final[Mapping[str, Host]] = MappingProxyType(
    {
        "anthropic": Host("https://api.anthropic.com", dialect=Anthropic(), api_key_env="ANTHROPIC_API_KEY"),
        "cerebras": Host("https://api.cerebras.ai/v1", dialect=OpenAIChat(), api_key_env="CEREBRAS_API_KEY"),
        "deepseek": Host(
            "https://api.deepseek.com/v1", dialect=_REASONING_BACK, api_key_env="DEEPSEEK_API_KEY"
        ),
        "fireworks": Host(
            "https://api.fireworks.ai/inference/v1", dialect=_PLAIN, api_key_env="FIREWORKS_API_KEY"
        ),
        "groq": Host("https://api.groq.com/openai/v1", dialect=OpenAIChat(), api_key_env="GROQ_API_KEY"),
        "llama_cpp": Host("http://127.0.0.1:8080/v1", dialect=_PLAIN, api_key_env=None),
        "lm_studio": Host("http://127.0.0.1:1234/v1", dialect=_PLAIN, api_key_env=None),
        "mistral": Host("https://api.mistral.ai/v1", dialect=_MISTRAL, api_key_env="MISTRAL_API_KEY"),
        "moonshot": Host(
            "https://api.moonshot.ai/v1", dialect=_REASONING_BACK, api_key_env="MOONSHOT_API_KEY"
        ),
        "ollama": Host("http://127.0.0.1:11434/v1", dialect=_PLAIN, api_key_env=None),
        "openai": Host("https://api.openai.com/v1", dialect=OpenAIChat(), api_key_env="OPENAI_API_KEY"),
        "openrouter": Host("https://openrouter.ai/api/v1", dialect=_PLAIN, api_key_env="OPENROUTER_API_KEY"),
        "together": Host("https://api.together.xyz/v1", dialect=_PLAIN, api_key_env="TOGETHER_API_KEY"),
        "vllm": Host("http://127.0.0.1:8000/v1", dialect=_PLAIN, api_key_env=None),
        "xai": Host("https://api.x.ai/v1", dialect=OpenAIChat(), api_key_env="XAI_API_KEY"),
    }
)
"""The hosts by name."""
