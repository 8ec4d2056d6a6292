// Starts `engine rules lsp` for rules files; everything else is the server's.
const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

function expanded(text) {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? ".";
  return text.replace("${workspaceFolder}", folder);
}

async function start() {
  const settings = vscode.workspace.getConfiguration("engineRules");
  const [command, ...first] = settings.get("command").map(expanded);
  const imports = settings.get("import").flatMap((module) => ["--import", module]);
  const cwd = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
  client = new LanguageClient(
    "engineRules",
    "Engine rules",
    { command, args: [...first, ...imports, "rules", "lsp"], options: { cwd } },
    { documentSelector: [{ language: "engine-rules" }] },
  );
  try {
    await client.start();
  } catch (error) {
    vscode.window.showErrorMessage(
      `Engine rules: ${command} does not start (${error.message}). Set "engineRules.command", ` +
        'and install the server with: pip install "engine[lsp]"',
    );
  }
}

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("engineRules.restart", async () => {
      await client?.stop();
      await start();
    }),
  );
  await start();
}

function deactivate() {
  return client?.stop();
}

module.exports = { activate, deactivate };
