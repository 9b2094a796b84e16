//! Workspaces of microVMs.

use super::*;

/// A workspace, with what is needed to bring it back, or to remove what is left of one that was not made to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRow {
    /// The number of its microVM, which has one at most: its name may be another one's later.
    pub vm_id: String,
    /// Where it is in its life.
    pub phase: WorkspacePhase,
    /// By which hash its objects are named: `sha1` or `sha256`.
    pub hash: String,
    /// The commit of what was in the files when it was prepared.
    pub worked: String,
    /// What is shown of it. While it is prepared, its place is what was asked for: empty if nothing was.
    pub shown: wire::api::workspace::Workspace,
}

/// Where a workspace is in its life, as far as whoever finds its row has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspacePhase {
    /// It is being prepared. Whoever finds it so and wants another one has what is left of it removed.
    Preparing,
    /// It is there.
    Ready,
}

impl Database {
    /// All workspaces that were put and not removed.
    pub async fn workspaces(&self) -> Result<Vec<WorkspaceRow>, DatabaseError> {
        self.run(|file| file.workspaces()).await
    }

    /// Writes the workspace of a microVM, in place of what is written of it.
    pub async fn put_workspace(&self, row: WorkspaceRow) -> Result<(), DatabaseError> {
        self.run(move |file| file.put_workspace(&row)).await
    }

    /// Forgets the workspace of a microVM. One that is not there is no error.
    pub async fn remove_workspace(&self, vm_id: String) -> Result<(), DatabaseError> {
        self.run(move |file| file.remove_workspace(&vm_id)).await
    }
}

impl File {
    fn workspaces(&self) -> Result<Vec<WorkspaceRow>, DatabaseError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare("SELECT record FROM workspace ORDER BY vm")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect()
        };
        let records = read().map_err(|error| self.failed(error))?;
        records.iter().map(|record| self.parse(record)).collect()
    }

    fn put_workspace(&mut self, row: &WorkspaceRow) -> Result<(), DatabaseError> {
        let insert = "INSERT OR REPLACE INTO workspace (vm, record) VALUES (?1, ?2)";
        let written = self.connection.execute(insert, params![row.vm_id, self.record(row)?]);
        written.map(|_| ()).map_err(|error| self.failed(error))
    }

    fn remove_workspace(&mut self, vm_id: &str) -> Result<(), DatabaseError> {
        let removed = self.connection.execute("DELETE FROM workspace WHERE vm = ?1", [vm_id]);
        removed.map(|_| ()).map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use wire::api::workspace::{Went, Workspace};

    use super::*;

    #[tokio::test]
    async fn a_workspace_is_there_until_it_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        let row = |vm_id: &str, phase| WorkspaceRow {
            vm_id: vm_id.to_owned(),
            phase,
            hash: "sha1".to_owned(),
            worked: "b".repeat(40),
            shown: Workspace {
                vm: "dev".to_owned(),
                id: "1".to_owned(),
                dir: "/home/u/app".into(),
                thread: None,
                place: "/root/app".into(),
                branch: Some("main".to_owned()),
                head: "a".repeat(40),
                since: Timestamp::from_unix(1),
                went: Went::default(),
                exported: None,
            },
        };
        let database = Database::open(&path).unwrap();
        database.put_workspace(row("1", WorkspacePhase::Preparing)).await.unwrap();
        database.put_workspace(row("1", WorkspacePhase::Ready)).await.unwrap();
        database.put_workspace(row("2", WorkspacePhase::Preparing)).await.unwrap();
        drop(database);
        let database = Database::open(&path).unwrap();
        let known = database.workspaces().await.unwrap();
        assert_eq!(known, [row("1", WorkspacePhase::Ready), row("2", WorkspacePhase::Preparing)]);
        for _ in 0..2 {
            database.remove_workspace("1".to_owned()).await.unwrap();
        }
        assert_eq!(database.workspaces().await.unwrap().len(), 1);
    }
}
