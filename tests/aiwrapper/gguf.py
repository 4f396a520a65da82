"""Writes model files small enough for a test, with the standard library: a real server for tests, without a download.

Three models, each a valid `llama` in the GGUF format, version 3
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):

- `write_babbler`: random weights. Says bytes, not even UTF-8, or exactly what a grammar lets it say.
- `write_counter`: says " one two three four" for ever: known text, from a model that never stops by itself.
- `write_caller`: calls a tool with valid arguments in every turn: an agent that never ends by itself.

The last two are programmed by hand: attention and feed-forward weights are zero, so the last token alone, by way of its
embedding, decides what comes next. The output row of a token is the sum of the embeddings of those it follows.
"""

import itertools
import math
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL_START, CALL_END = "<tool_call>", "</tool_call>"
COUNT = (" one", " two", " three", " four")

# ChatML, with tools as SmolLM2 and Qwen take them: the server finds out from the template how calls look.
TEMPLATE = """\
{%- if tools -%}
{{- '<|im_start|>system\\nTools:\\n' -}}
{%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}
{{- 'Call one like this:\\n<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # gguf_metadata_value_type
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types
_ALIGNMENT = 32
_FEED_FORWARD = 32
_HEADS = 4
_Weights: TypeAlias = Callable[[int], list[float]]


def write_babbler(
    path: Path, *, width: int = 64, layers: int = 2, context: int = 8192, seed: int = 1
) -> Path:
    """Write a model with random weights. More `width` and `layers` make it slower, as real ones are."""
    draw = random.Random(seed)
    tokens = [*_byte_symbols(), END_OF_TEXT, MESSAGE_START, MESSAGE_END]
    model = _Gguf()
    _describe(model, tokens, [_NORMAL] * 256 + [_CONTROL] * 3, width=width, layers=layers, context=context)

    def weights(count: int) -> list[float]:
        return [draw.gauss(0, 0.08) for _ in range(count)]

    size = width * len(tokens)
    _add_layers(model, weights(size), weights(size), weights, width=width, layers=layers)
    return model.write(path)


def write_counter(path: Path, *, context: int = 1 << 18) -> Path:
    """Write a model that counts to four, again and again, until the context is full."""
    circle = zip(COUNT, (*COUNT[1:], COUNT[0]), strict=True)
    follows = [
        (_byte_symbols()[ord("\n")], COUNT[0], 2.0),
        *((before, after, 2.0) for before, after in circle),
    ]
    return _write_chain(path, [(word, _USER_DEFINED) for word in COUNT], follows, context=context)


def write_caller(path: Path, *, context: int = 8192) -> Path:
    """Write a model that opens a tool call in each turn; the server's grammar then leaves it only valid ones.

    It has no words, so a string argument should be an enum, or the call grows until a quote happens to be drawn.
    """
    newline = _byte_symbols()[ord("\n")]
    # Where the grammar forbids the heaviest, the next one is taken: one table speaks markup and JSON.
    follows = [
        (newline, CALL_START, 1.0),
        (CALL_START, newline, 1.0),
        (newline, CALL_END, 0.8),
        (newline, '"', 0.6),
    ]
    follows += [(CALL_END, MESSAGE_END, 2.0), (">", MESSAGE_END, 2.0)]
    follows += [
        ("{", '"', 1.0),
        (":", '"', 1.0),
        ('"', ":", 0.8),
        ('"', "}", 0.6),
        ("}", "}", 0.8),
        ("}", newline, 0.6),
    ]
    follows += [(chr(letter), '"', 0.9) for letter in range(ord("a"), ord("z") + 1)]
    markup = [(CALL_START, _USER_DEFINED), (CALL_END, _USER_DEFINED)]
    return _write_chain(path, markup, follows, width=256, context=context)


def _write_chain(
    path: Path,
    words: Sequence[tuple[str, int]],
    follows: Iterable[tuple[str, str, float]],
    *,
    context: int,
    width: int = 64,
) -> Path:
    draw = random.Random(1)
    special = [(END_OF_TEXT, _CONTROL), (MESSAGE_START, _CONTROL), (MESSAGE_END, _CONTROL)]
    vocabulary = [*((symbol, _NORMAL) for symbol in _byte_symbols()), *words, *special]
    tokens = [token for token, _ in vocabulary]
    number = {token: index for index, token in enumerate(tokens)}
    embeddings = [[draw.gauss(0, 1) for _ in range(width)] for _ in tokens]
    outputs = [[draw.gauss(0, 0.02) for _ in range(width)] for _ in tokens]
    for before, after, weight in follows:
        row = outputs[number[after]]
        for index, value in enumerate(embeddings[number[before]]):
            row[index] += weight * value / math.sqrt(width)
    model = _Gguf()
    _describe(model, tokens, [kind for _, kind in vocabulary], width=width, layers=1, context=context)

    def nothing(count: int) -> list[float]:
        return [0.0] * count

    flat = itertools.chain.from_iterable
    _add_layers(model, list(flat(embeddings)), list(flat(outputs)), nothing, width=width, layers=1)
    return model.write(path)


def _describe(
    model: "_Gguf", tokens: Sequence[str], kinds: Sequence[int], *, width: int, layers: int, context: int
) -> None:
    model.put_string("general.architecture", "llama")
    model.put_string("general.name", "tiny")
    model.put_number("general.file_type", 0)  # all weights are 32-bit floats
    model.put_number("llama.block_count", layers)
    model.put_number("llama.context_length", context)
    model.put_number("llama.embedding_length", width)
    model.put_number("llama.feed_forward_length", _FEED_FORWARD)
    model.put_number("llama.attention.head_count", _HEADS)
    model.put_number("llama.attention.head_count_kv", _HEADS)
    model.put_number("llama.rope.dimension_count", width // _HEADS)
    model.put_number("llama.vocab_size", len(tokens))
    model.put("llama.attention.layer_norm_rms_epsilon", _FLOAT32, struct.pack("<f", 1e-5))
    model.put_string("tokenizer.ggml.model", "gpt2")  # byte-level BPE
    model.put_string("tokenizer.ggml.pre", "smollm")
    model.put_array("tokenizer.ggml.tokens", _STRING, [_string(token) for token in tokens])
    model.put_array("tokenizer.ggml.token_type", _INT32, [struct.pack("<i", kind) for kind in kinds])
    model.put_array("tokenizer.ggml.merges", _STRING, [_string("h e")])  # none would be refused
    model.put_number("tokenizer.ggml.bos_token_id", tokens.index(END_OF_TEXT))
    model.put_number("tokenizer.ggml.eos_token_id", tokens.index(MESSAGE_END))
    model.put_number("tokenizer.ggml.padding_token_id", tokens.index(END_OF_TEXT))
    model.put("tokenizer.ggml.add_bos_token", _BOOL, b"\0")
    model.put_string("tokenizer.chat_template", TEMPLATE)


def _add_layers(
    model: "_Gguf",
    embeddings: Sequence[float],
    outputs: Sequence[float],
    weights: _Weights,
    *,
    width: int,
    layers: int,
) -> None:
    ones = [1.0] * width
    model.add_tensor("token_embd.weight", (width, len(embeddings) // width), embeddings)
    model.add_tensor("output_norm.weight", (width,), ones)
    model.add_tensor("output.weight", (width, len(outputs) // width), outputs)
    square, wide = (width, width), (width, _FEED_FORWARD)
    for layer in range(layers):
        shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
        shapes |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": wide[::-1]}
        for norm in ("attn_norm", "ffn_norm"):
            model.add_tensor(f"blk.{layer}.{norm}.weight", (width,), ones)
        for name, shape in shapes.items():
            model.add_tensor(f"blk.{layer}.{name}.weight", shape, weights(math.prod(shape)))


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself if it prints, else one from 256 on."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = itertools.count(256)
    return [chr(byte if byte in prints else next(spare)) for byte in range(256)]


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


class _Gguf:
    """A file in the making: metadata, then a table of tensors, then their aligned bytes."""

    def __init__(self) -> None:
        self._metadata: list[bytes] = []
        self._table: list[bytes] = []
        self._data = bytearray()

    def put(self, key: str, kind: int, value: bytes) -> None:
        self._metadata.append(_string(key) + struct.pack("<I", kind) + value)

    def put_string(self, key: str, value: str) -> None:
        self.put(key, _STRING, _string(value))

    def put_number(self, key: str, value: int) -> None:
        self.put(key, _UINT32, struct.pack("<I", value))

    def put_array(self, key: str, kind: int, items: Sequence[bytes]) -> None:
        self.put(key, _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))

    def add_tensor(self, name: str, shape: Sequence[int], values: Sequence[float]) -> None:
        float32, offset = 0, len(self._data)
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        self._table.append(_string(name) + dimensions + struct.pack("<IQ", float32, offset))
        self._data += struct.pack(f"<{len(values)}f", *values)
        self._data += bytes(-len(self._data) % _ALIGNMENT)

    def write(self, path: Path) -> Path:
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(self._table), len(self._metadata))
        head += b"".join(self._metadata) + b"".join(self._table)
        path.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + self._data)
        return path
