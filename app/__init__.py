"""How do people and programs reach it? The command line and the browser app.

The only package that prints, exits, or imports Streamlit.
"""
