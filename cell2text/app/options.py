"""Options of `cell2text app`: one declaration for the command line and Python. Depends on light modules only."""

from dataclasses import dataclass

from cell2text.errors import UserError
from cell2text.options import Options, document_options, option


LOOPBACK = ("127.0.0.1", "localhost", "::1")


@document_options
@dataclass(frozen=True)
class AppOptions(Options):
    """Options of the app: where it listens, and how files are opened.

    Raises
    ------
    UserError
        If an option has the wrong type or is out of range.

    Examples
    --------
    >>> AppOptions().is_public, AppOptions(host="0.0.0.0").is_public
    (False, True)
    """

    model: str | None = option(
        None, help="Folder or Hub id of the model that describes and answers; the packaged model if omitted."
    )
    key: str = option("cell2text", help="Prefix of the described columns: `key_added` of cell2text.tl.describe.")
    host: str = option(
        "127.0.0.1",
        help="Address to listen on. With any other address, other machines can open the app without a login.",
    )
    port: int | None = option(
        None, minimum=1, maximum=65_535, help="Port to listen on; the first free one from 7860 on if omitted."
    )
    species: str = option(
        "human", choices=("human", "mouse"), help="Species of the cells in a file without descriptions: human or mouse."
    )
    max_cells: int = option(
        20_000, minimum=1, help="Maximum number of cells on the map; a random sample if there are more."
    )
    max_upload: int = option(500, minimum=1, help="Largest file that a browser may upload, in MB.")
    seed: int = option(0, minimum=0, maximum=2**32 - 1, help="Random seed for samples of cells and for UMAP.")
    mcp: bool = option(
        False, help="Also serve three functions as MCP tools for language models; needs pip install mcp."
    )
    shared: bool = option(
        False, help="Keep each user's corrections separate and in memory only; recommended for a public app."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.host.strip() or "/" in self.host:
            raise UserError(f"host={self.host!r}: expected an address such as 127.0.0.1, without http:// and port.")

    @property
    def is_public(self) -> bool:
        """Whether other machines may reach the app."""
        return self.host not in LOOPBACK
