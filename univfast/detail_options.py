"""Options of what is looked at beyond r: matched pairs, their tokens, and what neurons do."""

from typing import Annotated, Any, TypedDict

from univfast.checks import as_integer
from univfast.input_options import AxisOptions
from univfast.option import (
    Option,
    as_count,
    as_file_pattern,
    as_functions,
    as_names,
    as_token_text,
    switch,
)

__all__ = ["ContextOptions", "DetailOptions", "ExplainOptions", "FileOptions", "TokenOptions"]


class DetailOptions(TypedDict, total=False):
    """What is looked at of matched pairs, beyond r."""

    details: Annotated[
        bool,
        Option(
            False,
            doc="look at matched pairs once more: intervals of r, how many tokens it rests on, what"
            " of it follows the token and its position, moments, and where they are highest. Of A's"
            " neurons; the reverse has none.",
            help="Look at matched pairs of A's neurons once more: intervals, effective tokens, what"
            " follows the token and its position, moments, and where they are highest.",
            check=switch,
            panel="Output",
        ),
    ]


class FileOptions(TypedDict, total=False):
    """Which files of directories are read."""

    files: Annotated[
        str | None,
        Option(
            None,
            doc="pattern of the files of directories, of all models and controls:"
            ' ``"batch_{shard}/layer_{layer}.npy"``, where ``{layer}`` stands for the name of'
            " a layer, ``{shard}`` (also ``{rank}``, ``{batch}``, ``{part}``) for what"
            " tells its shards apart, and ``*`` for anything. None where names say it.",
            help="Which files of directories are read, of all models and controls, as"
            " 'batch_{shard}/layer_{layer}.npy'; {rank}, {batch}, {part} are as {shard}, * is"
            " anything.  [default: what names say]",
            check=as_file_pattern,
            metavar="PATTERN",
        ),
    ]


class TokenOptions(TypedDict, total=False):
    """How activations are read: which tokens are used, and what they and their features are."""

    width: Annotated[
        int | None,
        Option(
            None,
            doc="of sparse features, how many there are, where their files do not say it; None"
            " where they do.",
            help="Of sparse features, how many there are, where their files do not say it.",
            check=as_count,
            low=1,
            metavar="N",
        ),
    ]
    mask: Annotated[
        object | None,
        Option(
            None,
            doc="``[...]`` true for the tokens to use, as a tensor, array or path; None for all.",
            help="Use only the tokens that this .pt or .npy file of booleans marks as true.",
            path=True,
            metavar="FILE",
        ),
    ]
    token_ids: Annotated[
        object | None,
        Option(
            None,
            doc="for details, which token stands where: integers ``[...]`` as a tensor, array or"
            " path; None where live models, captures or model files tell, or nobody.",
            help="For --details, which token stands where: a .npy or .pt file of integers."
            "  [default: what live models, captures and model files know]",
            path=True,
            metavar="FILE",
        ),
    ]


class ContextOptions(TypedDict, total=False):
    """What is looked at of universal neurons, with details, where token ids are known."""

    neurons: Annotated[
        Any,
        Option(
            None,
            doc="with details, neurons of A whose contexts are looked at beside those of universal"
            ' ones, as ``"mlp.0/17"``.',
            help="With --details, look at the contexts of these neurons of A too, as"
            " 'mlp.0/3,mlp.1/17'.",
            check=as_names,
            metavar="LAYER/N",
            panel="Output",
        ),
    ]
    token_text: Annotated[
        Any,
        Option(
            None,
            doc="with details, what a token id stands for: a function of it, or a list; None where"
            " live models tell, or nobody.",
            check=as_token_text,
        ),
    ]
    features: Annotated[
        Any,
        Option(
            None,
            doc="with details, your own features of tokens by name, which may explain neurons:"
            " functions of ids int64 ``[n]``, of whole samples, and the text of each (None where"
            " not known) that give bool or numbers ``[n]``.",
            check=as_functions,
        ),
    ]
    examples: Annotated[
        int,
        Option(
            8,
            doc="contexts to keep of each kind.",
            help="Contexts to keep of each kind: where the neuron is highest, its match, and either"
            " alone.",
            check=as_integer,
            low=1,
            metavar="N",
            panel="Output",
        ),
    ]
    around: Annotated[
        int,
        Option(
            10,
            doc="tokens of a context before the highest, and behind.",
            help="Tokens of a context before the highest, and behind.",
            check=as_integer,
            low=0,
            metavar="N",
            panel="Output",
        ),
    ]


class ExplainOptions(FileOptions, AxisOptions, TokenOptions, ContextOptions, total=False):
    """Of `explain`."""
