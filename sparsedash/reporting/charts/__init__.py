"""Points as plotly figures: what is to be drawn comes in, a figure and its words go out. Nothing
here reads answers.
"""
