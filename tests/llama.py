"""A llama.cpp server on a free port of the loopback interface, with a model that has learnt two answers by heart.

The model is a real one, made here: one layer that does nothing, and weights by which each token calls for the next one. Asked by a user
it calls the tool `bash`; shown a result it says a sentence. So the server does all that it does for any model (its template, its
grammar for calls, its stream) and what comes out is known.
"""

import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

UNKNOWN, BEGIN, END = 0, 1, 2
ASKED, ANSWERED = "<|asked|>", "<|answered|>"
"""The marks after which it answers: one that is asked, and one that is shown a result."""
CALL = ["<tool_call>", "\n", '{"name": "', "bash", '", "arguments": {"', "command", '": "']
CALL += ["echo ", "from ", "the ", "model", '"}}', "\n\n", "</tool_call>"]
SENTENCE = ["It ", "said ", "so", "."]

TEMPLATE = """
{%- if tools %}<|system|>You may call functions. Write a call as <tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call>. The functions:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
{% endif %}
{%- for message in messages %}
{%- if message.role == "assistant" %}<|assistant|>{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}{{ eos_token }}
{%- elif message.role == "tool" %}<|tool|><tool_response>
{{ message.content }}
</tool_response>
{%- else %}<|{{ message.role }}|>{{ message.content }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% if messages[-1].role == "tool" %}<|answered|>{% else %}<|asked|>{% endif %}{% endif %}"""


def write_model(path: Path) -> None:
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    marks = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", ASKED, ANSWERED]
    tokens += [(mark, kinds.CONTROL) for mark in marks]
    pieces = CALL + SENTENCE
    assert len(set(pieces)) == len(pieces), "each token has one that follows it"
    tokens += [(piece.replace(" ", "\u2581"), kinds.NORMAL) for piece in pieces]
    place = {text: number for number, (text, _) in enumerate(tokens)}
    number = lambda piece: place[piece.replace(" ", "\u2581")]

    size = -(-len(tokens) // 64) * 64
    embedding = np.zeros((len(tokens), size), dtype=np.float32)
    embedding[np.arange(len(tokens)), np.arange(len(tokens))] = 1.0
    output = np.zeros((len(tokens), size), dtype=np.float32)
    for start, chain in ((ASKED, CALL), (ANSWERED, SENTENCE)):
        for before, after in zip([start, *chain], [*map(number, chain), END]):
            output[after, number(before)] = 10.0

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("by-heart")
    writer.add_context_length(65536)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(size // 64)
    writer.add_head_count_kv(size // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text.encode() for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    nothing = lambda *shape: np.zeros(shape, dtype=np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(size, dtype=np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(size, dtype=np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", nothing(size, size))
    writer.add_tensor("blk.0.ffn_gate.weight", nothing(64, size))
    writer.add_tensor("blk.0.ffn_up.weight", nothing(64, size))
    writer.add_tensor("blk.0.ffn_down.weight", nothing(size, 64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.gguf"
        write_model(model)
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.model_alias = {"by-heart"}
        params.n_ctx = 32768
        params.n_parallel = 2
        params.use_jinja = True
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        server = xllamacpp.Server(params)
        print(server.listening_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
