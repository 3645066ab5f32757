"""`textsam serve`: segmentation over HTTP, with a page to look at it.

`create_app` makes the ASGI application from a `Worker` that owns a loaded model; `run_server` runs
it until it is told to stop. Needs `pip install "textsam[serve]"`.
"""
