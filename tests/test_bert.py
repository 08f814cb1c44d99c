"""bert.py against transformers, layer by layer; its loader against wrong checkpoints."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bert
from support.errors import UserError

# Sizes that share no factor, so that a swapped axis cannot go unnoticed.
TINY = dict(
    vocab_size=37, hidden_size=21, num_hidden_layers=4, num_attention_heads=3,
    intermediate_size=29, max_position_embeddings=17, type_vocab_size=2,
)  # fmt: skip


@pytest.fixture
def tiny_folder(tmp_path):
    """A random checkpoint of transformers' own making."""
    torch.manual_seed(0)
    reference = transformers.BertModel(transformers.BertConfig(**TINY, initializer_range=0.3))
    reference.save_pretrained(tmp_path)
    return tmp_path


def batch(vocab_size, T=13, B=7):
    torch.manual_seed(1)
    ids = torch.randint(1, vocab_size, (B, T))
    types = (torch.arange(T) > T // 2).long().expand(B, T)
    mask = (torch.arange(T) < torch.randint(1, T + 1, (B, 1))).long()
    return ids, types, mask


def reference_model(folder):
    """transformers' own; eager attention is its plain form."""
    return transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()


@torch.no_grad()
def assert_equal_per_layer(folder, vocab_size):
    ids, types, padded = batch(vocab_size)
    ours, reference = bert.load_bert(folder).eval(), reference_model(folder)
    for mask in (padded, torch.ones_like(padded)):
        result = reference(ids, mask, types, output_hidden_states=True)
        states = ours(ids, types, mask)
        for state, expected in zip(states, result.hidden_states[1:], strict=True):
            torch.testing.assert_close(state[mask == 1], expected[mask == 1], atol=1e-5, rtol=0)


def test_equals_transformers_on_odd_sizes(tiny_folder):
    assert_equal_per_layer(tiny_folder, TINY["vocab_size"])


def test_equals_transformers_on_real_weights(minilm):
    assert_equal_per_layer(minilm, 30522)


def test_gradients_equal_transformers(tiny_folder):
    """One sum of squares, differentiated in both: each parameter has its counterpart's gradient."""
    ids, types, mask = batch(TINY["vocab_size"])
    ours, reference = bert.load_bert(tiny_folder).eval(), reference_model(tiny_folder)
    (reference(ids, mask, types).last_hidden_state ** 2).sum().backward()
    (ours(ids, types, mask)[-1] ** 2).sum().backward()
    theirs = {bert.our_name(name): p.grad for name, p in reference.named_parameters()}
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, theirs[name], atol=1e-4, rtol=1e-4)


def test_a_row_of_nothing_but_padding_is_finite():
    model = bert.Bert(bert.BertConfig(**TINY))
    mask = torch.tensor([[1, 1, 0, 0, 0], [0] * 5])
    states = model(torch.zeros(2, 5, dtype=torch.long), None, mask)
    assert all(state.isfinite().all() for state in states)


def test_dropout_keeps_the_mean_and_only_acts_in_training():
    torch.manual_seed(0)
    x = torch.full((1000, 100), 3.0)
    y = bert.dropout(x, 0.25, training=True)
    assert set(y.unique().tolist()) == {0.0, 4.0}  # 3 / (1 - 0.25)
    assert abs((y == 0).float().mean() - 0.25) < 0.01
    assert bert.dropout(x, 0.25, training=False) is x


def test_dropout_acts_in_four_kinds_of_places(monkeypatch):
    """After the embeddings, on the attention weights, after both halves of a layer: 1 + 3 M."""
    calls = []
    monkeypatch.setattr(bert, "dropout", lambda x, p, on: calls.append((x.dim(), p, on)) or x)
    config = bert.BertConfig(**TINY, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    bert.Bert(config).train()(torch.ones(2, 5, dtype=torch.long))
    assert calls == [(3, 0.3, True)] + [(4, 0.2, True), (3, 0.3, True), (3, 0.3, True)] * 4


def rewrite(folder, change):
    """change: the folder's tensors -> those to write in their place."""
    path = folder / "model.safetensors"
    save_file({name: x.contiguous() for name, x in change(load_file(path)).items()}, path)


def test_both_naming_styles_load_the_same(tiny_folder, capsys):
    modern = bert.load_bert(tiny_folder).state_dict()

    def to_2018(tensors):
        old = {f"bert.{name}": x for name, x in tensors.items()}
        for name in [name for name in old if "LayerNorm" in name]:
            short = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            old[short] = old.pop(name)
        old["bert.embeddings.position_ids"] = torch.arange(17)[None]
        return old | {"cls.predictions.bias": torch.zeros(37)}

    rewrite(tiny_folder, to_2018)
    old = bert.load_bert(tiny_folder).state_dict()
    torch.testing.assert_close(old, modern, rtol=0, atol=0)
    assert "4 dropped (bert.embeddings.position_ids, " in capsys.readouterr().out


@pytest.mark.parametrize("new, message", [
    ({"encoder.layer.2.output.dense.bias": None}, "1 tensor.s. missing.*'layers.2.ffn_out.bias'"),
    ({"embeddings.LayerNorm.bias": None, "embedding_norm.bias": 21},  # our name, no checkpoint's
     "'embedding_norm.bias' has no place"),
    ({"encoder.layer.1.novel.weight": 21}, "novel.weight' has no place"),
    ({"bert.embeddings.LayerNorm.gamma": 21}, "is there twice"),
    ({"embeddings.LayerNorm.bias": 20}, r"shape \(20,\), .* for \(21,\)"),
])  # fmt: skip
def test_a_wrong_tensor_is_named(tiny_folder, new, message):
    new = {name: size if size is None else torch.zeros(size) for name, size in new.items()}
    rewrite(tiny_folder, lambda old: {n: x for n, x in (old | new).items() if x is not None})
    with pytest.raises(ValueError, match=message) as caught:
        bert.load_bert(tiny_folder)
    assert str(tiny_folder) in str(caught.value)


@pytest.mark.parametrize("change, message", [
    ({"hidden_act": "relu"}, "gelu and absolute positions, not 'relu'"),
    ({"num_attention_heads": 4}, "21 is not a multiple of 4 heads"),
    ({"vocab_size": 7.5}, "vocab_size must be an integer, 1 to 1e8, not 7.5"),
    ({"num_hidden_layers": 10**7}, "71 tensors, but config.json names 10000000 layers"),
    ({"model_type": "roberta"}, "this is roberta; --model must be a checkpoint of bert"),
    ({"model_type": "electra", "embedding_size": 20}, "this is electra; .* equal to hidden_size"),
    ({"bert": {}}, "this is a run of train.py; --model must be a checkpoint"),
])  # fmt: skip
def test_a_config_for_another_architecture_is_refused(tiny_folder, change, message):
    path = tiny_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        bert.load_bert(tiny_folder)


@pytest.mark.parametrize("kind", [
    "BertForSequenceClassification", "BertForQuestionAnswering", "ElectraForPreTraining",
])  # fmt: skip
def test_a_model_with_a_head_is_the_encoder_inside_it(tmp_path, capsys, kind):
    """In half precision and in several files; the head is dropped by name."""
    electra = {"embedding_size": TINY["hidden_size"]} if "Electra" in kind else {}
    config = getattr(transformers, kind[: kind.index("For")] + "Config")(**TINY, **electra)
    whole = getattr(transformers, kind)(config).to(torch.bfloat16)
    whole.save_pretrained(tmp_path, max_shard_size="9KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    inside = {bert.our_name(name): x.float() for name, x in whole.base_model.state_dict().items()}
    for name, tensor in bert.load_bert(tmp_path).state_dict().items():
        assert torch.equal(tensor, inside[name])
    printed = capsys.readouterr().out
    for name in whole.state_dict():  # tied to the embeddings and not saved: the decoder
        assert name.startswith(("bert.e", "electra.")) or "decoder" in name or name in printed
    min(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(UserError, match="index.json: not readable, or not whole .No such file"):
        bert.load_bert(tmp_path)


def test_unreadable_files_are_named(tmp_path, tiny_folder):
    weights, config = tiny_folder / "model.safetensors", tiny_folder / "config.json"
    for path, content, message in (
        (weights, b"\0" * 100, "model.safetensors: not readable, or not whole"),
        (weights, None, "docs/faq.md says how to convert pytorch_model.bin"),
        (config, b"{", "config.json: not an object in JSON"),
        (config, None, "config.json: no such file"),
    ):
        path.unlink()
        if content:
            path.write_bytes(content)
        with pytest.raises((UserError, FileNotFoundError), match=message):
            bert.load_bert(tiny_folder)


def test_more_tokens_than_positions_is_an_error():
    with pytest.raises(ValueError, match="18 tokens, but the model has 17 positions"):
        bert.Bert(bert.BertConfig(**TINY))(torch.ones(1, 18, dtype=torch.long))
