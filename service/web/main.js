import { readModels } from './api.js'
import { startCharts } from './charts.js'
import { startDrawing } from './digit.js'
import { startModels } from './models.js'
import { startQuota } from './quota.js'

/** A model that takes the drawing as it is: 64 numbers, ten labels. */
const takesDrawing = ({ inputs, labels }) =>
  inputs.length === 1 && labels?.length === 10 && inputs[0].shape.slice(1).reduce((size, each) => size * each, 1) === 64

startCharts()
const models = await readModels()
const digits = models.find(takesDrawing)
startModels(models)
startQuota(digits ?? models[0])
if (digits === undefined) document.querySelector('.draw').hidden = true
else startDrawing(digits)
