"""The page of the app: components of Gradio, and which handler each of their events calls. Depends on Gradio."""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files

import gradio as gr

from cell2text.app.desk import UPLOAD_SUFFIXES, Desk
from cell2text.app.handlers import Handlers, Panels
from cell2text.app.questions import EXAMPLES
from cell2text.app.session import GROUPS
from cell2text.app.tools import tools
from cell2text.questions.words import MAX_LETTERS


SESSION_SECONDS = 4 * 3600  # after which the session of a closed page is forgotten
EXPORTS = {".h5ad": "h5ad", ".csv": "csv", ".json": "CAS"}
SCOPES = [("Chosen cell", "cell"), ("Selected cells", "selection")]


@cache
def static(name: str) -> str:
    """Return a file of the folder `static`."""
    return files("cell2text.app").joinpath("static", name).read_text(encoding="utf-8")


class Page:
    """The page of one app.

    Parameters
    ----------
    desk
        Opens files.

    Attributes
    ----------
    blocks
        The page, ready to be launched.
    """

    def __init__(self, desk: Desk):
        self.handlers = Handlers(desk)
        self._connections: list[Callable[[], object]] = []  # made when all panels exist
        with gr.Blocks(title="Cell2Text", analytics_enabled=False, delete_cache=(3600, SESSION_SECONDS)) as self.blocks:
            self.session = gr.State(None, time_to_live=SESSION_SECONDS, delete_callback=desk.close_session)
            self.panels: dict[str, gr.components.Component] = {
                "session": self.session, "head": _panel("head"), "message": _panel("message")
            }  # fmt: skip
            with gr.Row():
                with gr.Column(scale=6, min_width=320):
                    self._add_map()
                with gr.Column(scale=5, min_width=320), gr.Tabs():
                    with gr.Tab("Cell"):
                        self.panels["cell"] = _panel("cell")
                    with gr.Tab("Ask"):
                        self._add_questions()
                    with gr.Tab("Compare"):
                        self._add_comparison()
                    with gr.Tab("Correct"):
                        self._add_corrections()
                    with gr.Tab("File"):
                        self._add_file()
            for connect in self._connections:
                connect()
            self._fill_at_load()
            for tool in tools(desk) if desk.options.mcp else ():
                gr.api(tool, api_name=tool.__name__)

    def _add_map(self) -> None:
        handlers = self.handlers
        with gr.Row():
            self.colour = gr.Dropdown([], label="Colour by", elem_id="colour", min_width=180, interactive=True)
            find = gr.Textbox(
                label="Find a cell by name", elem_id="find", max_length=200, max_lines=1, min_width=180,
                submit_btn="Find",
            )  # fmt: skip
        cells = self.panels["map"] = gr.HTML(
            {}, html_template=static("map.html"), js_on_load=static("map.js"), apply_default_css=False, elem_id="map"
        )
        with gr.Row():
            before = gr.Button("Previous cell", size="sm", elem_id="before", min_width=100)
            after = gr.Button("Next cell", size="sm", elem_id="after", min_width=100)
        self._connect(self.colour.input, handlers.colour, [self.colour], ["map"])
        self._connect(find.submit, handlers.find, [find], ["cell", "map"])
        self._connect(before.click, lambda session: handlers.step(session, -1), [], ["cell", "map"])
        self._connect(after.click, lambda session: handlers.step(session, 1), [], ["cell", "map"])
        self._connect_map(cells.pick, handlers.pick, "point", ["cell"])
        self._connect_map(cells.choose, handlers.choose, "points", [])
        self._connect_map(cells.label_cells, handlers.choose_label, "label", ["map"])

    def _add_questions(self) -> None:
        scope = gr.Radio([*SCOPES, ("Groups A and B", "groups")], value="cell", label="Ask about", elem_id="ask-scope")
        question = gr.Textbox(label="Question", elem_id="question", max_length=MAX_LETTERS, max_lines=1)
        with gr.Row():
            ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=100)
        with gr.Row():
            for text in EXAMPLES:
                example = gr.Button(text, size="sm", min_width=120)
                example.click(lambda text=text: text, None, question, show_progress="hidden", api_visibility="private")
        self.panels["conversation"] = _panel("conversation")
        for event in (ask.click, question.submit):
            self._connect(event, self.handlers.ask, [question, scope], ["conversation"], generates=True)

    def _add_comparison(self) -> None:
        with gr.Row():
            for name in GROUPS:
                button = gr.Button(f"Selection as group {name}", size="sm", elem_id=f"group-{name}", min_width=120)
                self._connect(
                    button.click, lambda session, name=name: self.handlers.set_group(session, name), [], ["comparison"]
                )
            compare = gr.Button("Compare", variant="primary", size="sm", elem_id="compare", min_width=100)
        self.panels["comparison"] = _panel("comparison")
        self._connect(compare.click, self.handlers.compare, [], ["comparison"], shows_progress=True)

    def _add_corrections(self) -> None:
        scope = gr.Radio(SCOPES, value="cell", label="Cells to correct", elem_id="correct-scope")
        label = gr.Textbox(label="Cell type", elem_id="label", max_length=200, max_lines=1)
        self.panels["term"] = _panel("term")
        by = gr.Textbox(label="Your name", elem_id="by", max_length=100, max_lines=1)
        with gr.Row():
            save = gr.Button("Save label", variant="primary", elem_id="save", min_width=120)
            withdraw = gr.Button("Withdraw correction", elem_id="withdraw", min_width=120)
        self.panels["corrections"] = _panel("corrections")
        label.change(
            self._updates(lambda session, text: self.handlers.look_up(text)), [self.session, label],
            [self.panels["term"]], show_progress="hidden", trigger_mode="always_last", api_visibility="private",
        )  # fmt: skip
        self._connect(save.click, self.handlers.correct, [label, by, scope], ["corrections", "cell"])
        self._connect(withdraw.click, self.handlers.withdraw, [by, scope], ["corrections", "cell"])

    def _add_file(self) -> None:
        with gr.Row():
            buttons = {
                suffix: gr.Button(f"Export {name}", elem_id=f"export-{suffix[1:]}", min_width=100)
                for suffix, name in EXPORTS.items()
            }
        self.panels["download"] = gr.File(label="Export", visible="hidden", interactive=False, elem_id="download")
        for suffix, button in buttons.items():
            self._connect(
                button.click, lambda session, suffix=suffix: self.handlers.export(session, suffix), [], ["download"],
                shows_progress=True,
            )  # fmt: skip
        self.upload = gr.UploadButton(
            "Open another file", file_types=[*UPLOAD_SUFFIXES], file_count="single", elem_id="upload"
        )
        self.panels["facts"] = _panel("facts")

    def _fill_at_load(self) -> None:
        outputs = [*self.panels.values(), self.colour]

        def start(progress=gr.Progress()):  # noqa: B008  Gradio finds the progress bar by this default
            return self._components(self.handlers.start(_reporter(progress)))

        def open_upload(session, path, progress=gr.Progress()):  # noqa: B008
            return self._components(self.handlers.open_upload(session, path, _reporter(progress)))

        shown = self.panels["message"]
        self.blocks.load(start, None, outputs, show_progress_on=shown, api_visibility="private")
        self.upload.upload(
            open_upload, [self.session, self.upload], outputs, show_progress_on=shown, api_visibility="private"
        )

    def _connect(
        self, event: Callable, handler: Callable, inputs: list, outputs: list[str], *, generates: bool = False,
        shows_progress: bool = False,
    ) -> None:  # fmt: skip
        """Let an event call a handler with the session and the values of some components."""
        react = self._streamed(handler) if generates else self._updates(handler)
        shown = "full" if shows_progress else "hidden"
        self._call(event, react, [self.session, *inputs], outputs, shown)

    def _connect_map(self, event: Callable, handler: Callable, name: str, outputs: list[str]) -> None:
        """Let an event of the map call a handler with the session and one value of the event."""

        def react(session, event_data: gr.EventData):
            return self._components(handler(session, event_data._data.get(name)))

        self._call(event, react, [self.session], outputs, "hidden")

    def _call(self, event: Callable, react: Callable, inputs: list, outputs: list[str], shown: str) -> None:
        """Note that an event calls a function, which changes the panel `message` and others."""
        self._connections.append(
            lambda: event(
                react, inputs, [self.panels[name] for name in ("message", *outputs)], show_progress=shown,
                show_progress_on=self.panels["message"], api_visibility="private",
            )
        )  # fmt: skip

    def _updates(self, handler: Callable) -> Callable:
        return lambda session, *values: self._components(handler(session, *values))

    def _streamed(self, handler: Callable) -> Callable:
        def stream(session, *values) -> Iterator[dict]:
            for panels in handler(session, *values):
                yield self._components(panels)

        return stream

    def _components(self, panels: Panels) -> dict:
        """Return updates of components for named panels."""
        updates = {self.panels[name]: value for name, value in panels.items() if name in self.panels}
        if "colourings" in panels:
            updates[self.colour] = gr.update(choices=panels["colourings"], value=panels["coloured_by"])
        if "download" in panels:
            updates[self.panels["download"]] = gr.update(value=panels["download"], visible=True)
        return updates


def _panel(name: str) -> gr.HTML:
    """Return a panel of HTML that `rendering` wrote."""
    return gr.HTML("", elem_id=name, apply_default_css=False, js_on_load=None)


def _reporter(progress: gr.Progress) -> Callable[[str, int, int], object]:
    """Return a function that shows stages in a progress bar."""
    return lambda stage, done, total: progress((done, total) if total else None, desc=stage, unit="cells")
