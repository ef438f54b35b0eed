"""Serve the app on this machine: loopback unless another address is given, offline, without statistics of use.

Depends on Gradio, the `app` extra.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from cell2text.app.desk import Desk
from cell2text.app.opening import check_openable
from cell2text.app.options import AppOptions
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.loading import check_model_folder


logger = logging.getLogger(__name__)

THREADS = 4  # requests that compute at the same time
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read when Gradio is imported
UPLOADS = "GRADIO_TEMP_DIR"  # where Gradio keeps uploads
# Colours of Gradio whose contrast is below 4.5 to 1, darkened or lightened.
READABLE = {
    "button_primary_background_fill": "#1f5fa8",
    "button_primary_background_fill_dark": "#1f5fa8",
    "button_primary_background_fill_hover": "#174a85",
    "button_primary_background_fill_hover_dark": "#174a85",
    "block_label_text_color": "#1f2328",
    "block_label_text_color_dark": "#eef0f3",
    "block_title_text_color": "#1f2328",
    "block_title_text_color_dark": "#eef0f3",
}


class RunningApp:
    """An app that is being served.

    Parameters
    ----------
    desk
        Opens files.
    blocks
        The page.
    url
        Its address.
    opened
        What `close` undoes: the page, the setting of Gradio's folder, and the desk.
    """

    def __init__(self, desk: Desk, blocks, url: str, opened: ExitStack):
        self.desk, self.blocks, self.url, self._opened = desk, blocks, url, opened

    def wait(self) -> None:
        """Serve until the process is interrupted."""
        try:
            self.blocks.block_thread()
        finally:
            self.close()

    def close(self) -> None:
        """Stop serving, and remove temporary files."""
        self._opened.close()

    def __enter__(self) -> "RunningApp":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def serve(source: str | os.PathLike | None = None, options: AppOptions | None = None) -> RunningApp:
    """Serve the app, and return at once.

    Parameters
    ----------
    source
        File that every user sees first: a described one, or one that is described when the first page is opened. None
        to start with an upload.
    options
        Address, model and limits. Defaults to `AppOptions()`.

    Raises
    ------
    UserError
        If the file or the model cannot be used, a library is missing, or the port is taken.
    """
    options = options or AppOptions()
    check_model_folder(options.model)
    if source is not None:
        check_openable(source, key=options.key, options=DescribeOptions(species=options.species))
    _check_libraries(options)
    with ExitStack() as opened:  # undone if anything fails until the app is served
        desk = Desk(source, options)
        opened.callback(desk.close)
        opened.enter_context(_uploads_in(str(desk.folder / "uploads")))
        blocks, url = _launch(desk, opened)
        desk.open_ahead()
        return RunningApp(desk, blocks, url, opened.pop_all())


def _launch(desk: Desk, opened: ExitStack):
    """Serve the page of a desk; return it with its address. `opened` closes it."""
    os.environ.update(SETTINGS)
    import gradio as gr

    from cell2text.app.page import Page, static

    options, blocks = desk.options, Page(desk).blocks
    opened.callback(blocks.close, verbose=False)
    blocks.queue(default_concurrency_limit=THREADS)
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme = theme.set(**READABLE)
    try:
        _, url, _ = blocks.launch(
            server_name=options.host, server_port=options.port, prevent_thread_lock=True, quiet=True, share=False,
            theme=theme, css=static("app.css"), max_file_size=options.max_upload * 1_000_000,
            footer_links=[], ssr_mode=False, pwa=False, run_history=False, enable_monitoring=False,
            mcp_server=options.mcp, inbrowser=False, show_error=False,
        )  # fmt: skip
    except OSError as error:
        raise UserError(
            f"port={options.port}: the app cannot listen on this port ({error}). Choose another port."
        ) from error
    if options.is_public:
        logger.warning(
            f"host={options.host!r}: other machines can reach the app. It has no login: everyone who can open it sees "
            "the cells and can correct labels."
        )
    return blocks, url


@contextmanager
def _uploads_in(folder: str) -> Iterator[None]:
    """Let Gradio keep uploads in a folder that others do not share; afterwards restore what the environment says."""
    before = os.environ.get(UPLOADS)
    os.environ[UPLOADS] = folder
    try:
        yield
    finally:
        if os.environ.get(UPLOADS) == folder:  # another app may have set its own
            os.environ.pop(UPLOADS)
            if before is not None:
                os.environ[UPLOADS] = before


def _check_libraries(options: AppOptions) -> None:
    """Raise unless the libraries of the app are installed."""
    if find_spec("gradio") is None:
        raise UserError('The app needs gradio: pip install "cell2text[app]".')
    if options.mcp and find_spec("mcp") is None:
        raise UserError("mcp=True needs the library mcp: pip install mcp.")
    if "gradio" in sys.modules:  # it has read its settings
        logger.debug("Gradio was imported before; its statistics follow the environment.")
