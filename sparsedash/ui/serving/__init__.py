"""The border of the server: where requests come from, who has logged in, and who is looking at a page."""
