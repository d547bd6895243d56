// 1.00: a minimal server; one statement builds the whole answer, and it is passed on as it is.
import { createServer } from "node:http";
import pg from "pg";
import { works } from "../work.ts";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });

createServer((request, response) => {
  let body = "";
  request.on("data", (chunk: Buffer) => (body += chunk.toString()));
  request.on("end", () => {
    const name = request.url!.slice(1);
    const sql = works[name]?.sql;
    if (!sql) return void response.writeHead(404).end();
    pool
      .query({ name, text: sql.text, values: sql.values(JSON.parse(body).variables) })
      .then(({ rows }) => {
        response.writeHead(200, { "content-type": "application/json" });
        response.end(rows[0].answer);
      })
      .catch((error: Error) => response.writeHead(500).end(error.message));
  });
}).listen(Number(process.env.PORT), "127.0.0.1", () => console.log("ready"));
