"""What results say: words, tables, charts and files about them. Imports no Streamlit."""
