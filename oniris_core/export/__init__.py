"""A world model taken out of the project: ONNX graphs with a driver in numpy, and one page that dreams in a browser.

Ask `store` for the folder and `page` for the page. `parts` are the functions that become graphs, `schedule` is the sampler as a
table; `driver.py` goes along with the graphs and imports nothing of this project.
"""
