"""Words, tables, charts and files about results. Imports no Streamlit."""
