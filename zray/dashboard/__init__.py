"""The dashboard: a page in the browser over the rows of zray.state, served by a process of its own."""
