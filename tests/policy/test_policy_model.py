"""Loading a folder, its errors, and writing one."""

import copy
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from foveal.policy import Policy, load_policy
from foveal.spec import FovealError
from foveal.types import CLEAN
from policy_cases import MIXED, batch, edited
from tiny_models import build_tokenizer


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "nowhere", "a/b/c"])
def test_no_such_folder_is_said(path: str) -> None:
    with pytest.raises(FovealError, match=r"no such model: .*expected a Hugging Face model folder"):
        load_policy(path)


def test_a_hub_id_that_cannot_be_fetched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        FovealError, match="'owner/no-such-model' is not a local folder, and the hub did not give it"
    ):
        load_policy("owner/no-such-model")


def test_a_file_is_no_model_folder(tiny_folder: Path) -> None:
    with pytest.raises(FovealError, match="is not a folder"):
        load_policy(str(tiny_folder / "config.json"))


def test_a_folder_without_config_names_the_one_below(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(FovealError, match=r"has no config.json; expected a Hugging Face model folder$"):
        load_policy(str(tmp_path))
    (tmp_path / "inner").mkdir()
    shutil.copy(tiny_folder / "config.json", tmp_path / "inner")
    with pytest.raises(FovealError, match="did you mean .*inner"):
        load_policy(str(tmp_path))


def test_a_model_without_pictures_is_refused(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=303,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(FovealError, match="has no pictures: its model_type is 'qwen2'.*change --model"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("qwen2_vl", "model_type 'qwen2_vl'; expected one of qwen2_5_vl"),
        ("qwen9", "model_type 'qwen9'; expected one of"),
    ],
)
def test_an_unknown_family_is_refused(tiny_folder: Path, tmp_path: Path, kind: str, message: str) -> None:
    folder = edited(tiny_folder, tmp_path / "model", model_type=kind)
    with pytest.raises(FovealError, match=message):
        load_policy(str(folder))


@pytest.mark.parametrize("window", [None, 0])
def test_a_sliding_window_without_a_size_is_refused(
    tiny_folder: Path, tmp_path: Path, window: int | None
) -> None:
    text = {
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": window,
        "use_sliding_window": True,
    }
    folder = edited(tiny_folder, tmp_path / "model", text=text)
    with pytest.raises(FovealError, match=rf"sliding_window = {window}; expected a number of tokens above 0"):
        load_policy(str(folder))


def test_weights_that_are_not_whole_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FovealError, match=r"not whole: 1 tensors are missing, such as 'lm_head.weight'"):
        load_policy(str(folder))


def test_a_folder_without_weights_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FovealError, match="has no weights in .safetensors files"):
        load_policy(str(folder))


def test_an_unknown_attention_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(FovealError, match="attention = 'quick'; expected 'auto', 'split', 'flash'"):
        load_policy(str(tiny_folder), attention="quick")


def test_a_loaded_policy_is_in_training_mode_and_splits_attention_on_a_cpu(policy: Policy) -> None:
    assert policy.training
    assert policy.attention_path == "split"
    assert policy.device.type == "cpu"


@pytest.mark.parametrize("name", ["tiny_folder", "tied_folder"])
def test_a_saved_policy_opens_in_transformers_and_here_with_equal_weights(
    request: pytest.FixtureRequest, name: str, tmp_path: Path
) -> None:
    policy = load_policy(str(request.getfixturevalue(name)))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.01)
    policy.save(tmp_path / "out")
    theirs, loading = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    ours = load_policy(str(tmp_path / "out"))
    wanted = policy.model.state_dict()
    for found in (theirs.state_dict(), ours.model.state_dict()):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    inputs = batch(policy, *MIXED)
    assert torch.equal(ours(inputs, CLEAN).logprobs, policy(inputs, CLEAN).logprobs)


def test_a_saved_folder_has_the_standard_files_and_no_private_name(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "out")
    source = {file.name for file in policy.processor.folder.iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == source
    for file in (tmp_path / "out").glob("*.json"):
        assert "foveal" not in file.read_text(), file.name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == policy.processor.tokenizer.get_vocab()
    assert tokenizer.chat_template == policy.processor.tokenizer.chat_template


def test_saving_over_the_folder_it_came_from_keeps_it_whole(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    policy = load_policy(str(folder))
    policy.save(folder)
    found = load_policy(str(folder)).model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in policy.model.state_dict().items())


def test_a_copy_stands_on_its_own(tiny_folder: Path) -> None:
    """A frozen copy is a reference policy: training the original must not move it."""
    policy = load_policy(str(tiny_folder))
    inputs = batch(policy, *MIXED)
    before = policy(inputs, CLEAN).logprobs.detach()
    frozen = copy.deepcopy(policy)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.1)
    assert torch.equal(frozen(inputs, CLEAN).logprobs, before)
    assert not torch.equal(policy(inputs, CLEAN).logprobs, before)


def test_a_policy_still_generates_through_transformers(policy: Policy) -> None:
    prompt = policy.processor.encode(MIXED[2][0]).prompt
    policy.eval()
    found = policy.model.generate(  # type: ignore[operator]
        prompt.token_ids[None],
        attention_mask=torch.ones(1, len(prompt.token_ids)),
        max_new_tokens=5,
        do_sample=False,
    )
    plain = AutoModelForImageTextToText.from_pretrained(policy.processor.folder, attn_implementation="sdpa")
    wanted = plain.generate(
        prompt.token_ids[None],
        attention_mask=torch.ones(1, len(prompt.token_ids)),
        max_new_tokens=5,
        do_sample=False,
    )
    policy.train()
    assert found.tolist() == wanted.tolist()
