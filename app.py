"""SparseDash: what would pruning cost this language model? Start it with `streamlit run app.py`.

Imported by the server it is the ASGI application: health, security headers, reconciling of jobs.
Run as a script, once for every session, it is the table of contents.
"""

import streamlit as st
from starlette.routing import Route
from streamlit.runtime.pages_manager import PagesManager

from sparsedash.ui import navigation, server, widgets

# Streamlit takes a folder called pages/ for its older kind of multi-page app until st.navigation
# has run once; a deep link to a fresh server would then run the page without this file.
PagesManager.uses_pages_directory = False

if __name__ == "__main__":
    page = st.navigation(
        [
            st.Page(
                f"pages/{name}.py",
                title=title,
                url_path=name,
                default=name == "overview",
            )
            for name, title in navigation.TITLES.items()
        ],
        position="hidden",
    )
    with widgets.errors_in_words():
        page.run()
else:
    app = st.App(
        __file__,
        lifespan=server.lifespan,
        routes=[
            Route("/health", server.health_route),
            Route("/overview", server.front_page),
        ],
        middleware=server.middleware(),
    )
