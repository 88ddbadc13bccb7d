"""What the pages are drawn with; beside app.py and pages/ the only code that knows Streamlit."""
