"""The app: a described experiment in a browser, on this machine, with questions, comparisons and corrections.

    opening -> experiment, counts -> details, comparison, questions, corrections, export -> session -> page -> server

Modules up to `session` know nothing of a browser. `page` and `server` depend on Gradio, the `app` extra.
"""
