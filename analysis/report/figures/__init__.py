"""The figures of a study, drawn without any global state."""

from mixsweep.analysis.report.figures.curves import draw_bands as draw_bands
from mixsweep.analysis.report.figures.curves import draw_best as draw_best
from mixsweep.analysis.report.figures.curves import draw_curves as draw_curves
from mixsweep.analysis.report.figures.effects import draw_cost as draw_cost
from mixsweep.analysis.report.figures.effects import draw_finals as draw_finals
from mixsweep.analysis.report.figures.effects import draw_forest as draw_forest
from mixsweep.analysis.report.figures.effects import draw_sensitivity as draw_sensitivity
from mixsweep.analysis.report.figures.spaces import draw_heat as draw_heat
from mixsweep.analysis.report.figures.spaces import draw_importance as draw_importance
from mixsweep.analysis.report.figures.spaces import draw_parallel as draw_parallel
from mixsweep.analysis.report.figures.style import DASHES as DASHES
from mixsweep.analysis.report.figures.style import MARKERS as MARKERS
from mixsweep.analysis.report.figures.style import MOST_LINES as MOST_LINES
from mixsweep.analysis.report.figures.style import PALETTE as PALETTE
from mixsweep.analysis.report.figures.style import save_figure as save_figure
from mixsweep.analysis.report.figures.weights import draw_kernels as draw_kernels
from mixsweep.analysis.report.figures.weights import draw_token_units as draw_token_units
from mixsweep.analysis.report.figures.weights import draw_weights as draw_weights
