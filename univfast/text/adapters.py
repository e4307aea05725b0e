"""An adapter, as ``peft`` saves it, merged into the model that it was made for."""

from __future__ import annotations

from typing import Any

from univfast.errors import InputError

__all__ = ["merge_adapter"]

_INSIDE = "base_model.model."


def merge_adapter(directory: str, adapter: str, base: Any) -> Any:
    """A model with an adapter in its weights, whose modules keep their names.

    An adapter that was made for a model with another head than ``base`` has, or for one without,
    is put on what both have.

    Args:
        directory: as the user named it.
        adapter: where the adapter is.
        base: of transformers, modified.

    Raises:
        InputError: ``peft`` is missing; the adapter is of another model, lacks weights, or is of a
            kind that cannot be merged.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError(
            f"{directory}: is an adapter, which needs the peft library ({error}); pip install"
            " 'univfast[peft]', or merge it where peft is: PeftModel.merge_and_unload()"
        ) from error
    settings = peft.PeftConfig.from_pretrained(adapter, local_files_only=True)
    settings.inference_mode = True
    if settings.is_prompt_learning:
        raise InputError(
            f"{directory}: is an adapter that puts tokens of its own before the text"
            f" ({settings.peft_type.value}), which cannot be merged into weights; run it in Python"
            " (univfast.correlate_models)"
        )
    settings.task_type = None  # which would add a head to what is saved whole
    names = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    whole = [name for name in settings.modules_to_save or () if name in names]
    settings.modules_to_save = whole or None
    model = peft.PeftModel(base, settings)
    given = _renamed(peft.load_peft_weights(adapter, device="cpu", local_files_only=True), base)
    # Embeddings may be saved whole. "auto", the default, would look for the base on the hub.
    needed, known = (
        peft.get_peft_model_state_dict(model, save_embedding_layers=embeddings).keys()
        for embeddings in (False, True)
    )
    lacking = sorted(needed - given.keys())
    others = sorted(given.keys() - known)
    if lacking or others:
        name = (lacking or others)[0]
        what = "lacks" if lacking else "has, and its base has no place for,"
        raise InputError(
            f"{directory}: {what} {name.removeprefix(_INSIDE)}, so that it is an adapter to another"
            " model than its base; check base_model_name_or_path, and save the adapter again"
        )
    peft.set_peft_model_state_dict(model, given)
    return model.merge_and_unload(safe_merge=True)


def _renamed(weights: dict[str, Any], base: Any) -> dict[str, Any]:
    """The weights of an adapter by their names in the base, without those of other heads."""
    own = base.base_model_prefix
    headed = base.base_model is not base
    names = {name.removeprefix(_INSIDE): name for name in weights}
    theirs_headed = any(name.startswith(f"{own}.") for name in names)
    if headed and theirs_headed:
        return {
            full: weights[full]
            for name, full in names.items()
            if hasattr(base, name.partition(".")[0])  # not those of another head
        }
    if not headed and not theirs_headed:
        return weights
    if headed:
        return {f"{_INSIDE}{own}.{name}": weights[full] for name, full in names.items()}
    return {
        _INSIDE + name.removeprefix(f"{own}."): weights[full]
        for name, full in names.items()
        if name.startswith(f"{own}.")
    }
