# Each target sets up .venv when needed. Without make (Windows): py tools\course.py lab
PYTHON ?= python3
COURSE = $(PYTHON) tools/course.py

.PHONY: lab edit test course play notebooks badges lab-kit readme clean
lab:        ## JupyterLab, opened on your own notebooks; NEW=07 for a new copy with your answers, FROM=folder for old answers
	$(COURSE) lab $(if $(NEW),--new "$(NEW)") $(if $(FROM),--from "$(FROM)")
edit:       ## for authors: JupyterLab on notebooks/, paired with notebooks/src
	$(COURSE) edit
test:       ## ruff, unit tests, every notebook under nbval with the network off
	$(COURSE) test
course:     ## the site, from the committed notebooks, to build/course; RUN=1 runs them here first
	$(COURSE) course $(if $(RUN),--run)
play:       ## a page in which a network draws, to build/play; needs npm
	$(COURSE) play
notebooks:  ## rebuild the committed notebooks from notebooks/src; ONLY=01 for one
	$(COURSE) notebooks $(ONLY)
badges:     ## make badges REPO=owner/name: Colab links and clone address of your fork
	$(COURSE) badges $(REPO)
lab-kit:    ## for instructors, to build/lab-kit.zip; DATA=folder puts your images in
	$(COURSE) lab-kit $(if $(DATA),"$(DATA)")
readme:     ## the tables of README.md and docs/RESULTS.md, from docs/results and the notebooks
	$(COURSE) readme
clean:
	rm -rf .venv build
