"""The browser app: a Streamlit server on this machine and the pages it shows."""
