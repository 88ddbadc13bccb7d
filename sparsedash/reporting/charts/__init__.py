"""Records as plotly figures. Pure: records in, a figure and its words out."""
