// The pack's part of the artist's desk.
// What a node of this pack says about its run stays on it. Frontends show it as progress text, which newer ones take
// away when the job ends; and a node that need not run again sends none, only its output from before.
// A template's example pictures (nodes/examples.py) are in no list of a loader's, so that some frontends take them for
// missing.
// A template opens where its note is, at a size at which it can be read: frontends fit the whole graph into the window.
import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

const OURS = "AsymVQ"
const COMPARE = "AsymVQCompare"
const COMPARE_SIZE = [640, 720]
const LABELS_HEIGHT = 60
const FITTED_MS = 300
const EXAMPLE = /^asymvq\/\w+\.(png|mp4) \[temp\]$/
const said = new Map()

/** Of an execution id such as "12" or, in subgraphs, "3:12". */
function nodeOf(id) {
    let graph = app.rootGraph ?? app.graph
    let node = null
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number(part)) ?? null
        graph = node?.subgraph
    }
    return node
}

function keep(id, text) {
    const node = nodeOf(id)
    const kind = node?.comfyClass ?? node?.type
    if (text && kind?.startsWith(OURS) && kind !== COMPARE) said.set(String(id), { node, text })
}

function show() {
    for (const [nodeId, { node, text }] of [...said]) {
        if (nodeOf(nodeId) === node) api.dispatchCustomEvent("progress_text", { nodeId, text })
    }
}

api.addEventListener("execution_start", () => said.clear())
api.addEventListener("progress_text", ({ detail }) => keep(detail.nodeId, detail.text))
api.addEventListener("executed", ({ detail }) => keep(detail.node, detail.output?.text?.[0]))
for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
    api.addEventListener(end, () => setTimeout(show, 50)) // after the frontend's own listeners
}

app.registerExtension({
    name: "asymvq.desk",
    loadedGraphNode(node) {
        const widget = node.widgets?.find(({ value }) => EXAMPLE.test(value))
        const values = widget?.options?.values
        if (Array.isArray(values) && !values.includes(widget.value)) widget.options.values = [...values, widget.value]
    },
    afterConfigureGraph() {
        const extra = (app.rootGraph ?? app.graph).extra
        const view = extra?.asymvq_view
        if (!view) return
        delete extra.asymvq_view // once: afterwards it is the artist's graph
        setTimeout(() => {
            app.canvas.ds.scale = view.scale
            app.canvas.ds.offset = view.offset
            app.canvas.setDirty(true, true)
        }, FITTED_MS)
    },
    nodeCreated(node) {
        if (node.comfyClass !== COMPARE) return
        // the room is the panel's, not the labels'
        const labels = node.widgets?.find((widget) => widget.name === "labels")
        if (labels?.options) labels.options.getMaxHeight = () => LABELS_HEIGHT
        node.setSize?.(COMPARE_SIZE.map((side, i) => Math.max(node.size[i], side)))
    },
})
