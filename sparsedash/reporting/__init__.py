"""What results say: words, tables, charts and files about them. Knows no Streamlit."""
